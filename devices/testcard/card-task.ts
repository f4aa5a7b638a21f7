/** The event task of a card: its doorbells, and its DMA engine. */
import type { StartEventTask } from '../../sys/event-task.js';
import { drainEventfd } from '../../sys/eventfd.js';
import { PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import { DmaTableReader } from '../../vfio/dma-table.js';
import { IntxUnmask } from '../mdev/intx-unmask.js';
import { CardState } from './card-state.js';
import type { CardCommand, CardTaskData, RemoteNotice } from './messages.js';
import { Transfer, type TransferMemory } from './transfer.js';
import { WrittenPages } from './written-pages.js';

export const start: StartEventTask = (data, context) => {
  const { doorbells, ...shared } = data as CardTaskData;
  const state = new CardState(shared);
  let table: DmaTableReader | undefined;
  let next: Disposable | undefined;
  const unmask = new IntxUnmask(state.pin, context);
  let asksUnmapped = false;
  /** Whether the machine thread takes the transfer over. */
  let isRemote = false;
  /** While writes are logged. */
  let written: WrittenPages | undefined;

  for (const fd of doorbells) {
    context.watch(
      fd,
      () => {
        state.add('doorbells', Number(BigInt.asIntN(32, drainEventfd(fd))));
        state.raise(state.get('doorbellVector'));
      },
      true,
    );
  }

  /** Copies page by page, as a range may have several maps. */
  function access(iova: number, data: Uint8Array, prot: number): boolean {
    if (table === undefined) return false;
    if (table.isRemote(iova, data.length)) {
      isRemote = true;
      return false;
    }
    for (let done = 0; done < data.length; ) {
      const piece = table.piece(iova + done, data.length - done, prot);
      if (piece === undefined || piece.length === 0) {
        isRemote = asksUnmapped;
        return false;
      }
      if (prot === PROT_READ) data.set(piece, done);
      else {
        piece.set(data.subarray(done, done + piece.length));
        written?.add(iova + done, piece.length);
      }
      done += piece.length;
    }
    return true;
  }
  const memory: TransferMemory = {
    read: (iova, data) => access(iova, data, PROT_READ),
    write: (iova, data) => access(iova, data, PROT_WRITE),
  };

  function step(transfer: Transfer, notice: RemoteNotice): void {
    next = undefined;
    isRemote = false;
    table?.enter();
    const result = transfer.step();
    table?.leave();
    if (result === 'more') next = context.after(0, () => step(transfer, notice));
    else if (isRemote) context.notify(notice);
    else state.endTransfer(transfer, result === 'done');
  }

  function stop(): void {
    next?.[Symbol.dispose]();
    next = undefined;
  }

  function obey(command: CardCommand): unknown {
    switch (command.kind) {
      case 'attach':
        table = new DmaTableReader(command.table);
        break;
      case 'detach':
        stop();
        table = undefined;
        break;
      case 'transfer': {
        const { number, program, delayMs } = command;
        stop();
        asksUnmapped = command.asksUnmapped;
        next = context.after(delayMs, () => step(new Transfer(program, memory), { number, program }));
        break;
      }
      case 'stop':
        stop();
        break;
      case 'unmaskBy':
        unmask.by(command.fd);
        break;
      case 'log':
        written = command.isOn ? new WrittenPages() : undefined;
        break;
      case 'written':
        return written?.take(command.from, command.end);
      case 'sync':
    }
    return undefined;
  }

  return {
    message: (message) => obey(message as CardCommand),
    stop() {
      stop();
      unmask[Symbol.dispose]();
    },
  };
};
