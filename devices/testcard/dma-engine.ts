import type { Iova } from '../../sys/address.js';
import { SysError } from '../../sys/error.js';
import type { DeviceDma } from '../../vfio/driver.js';
import type { CardState } from './card-state.js';
import { ASTRAY } from './faults.js';
import type { CardCommand, RemoteNotice } from './messages.js';
import { DMA_BUSY, MOST_DELAY_MS } from './spec.js';
import { Transfer, type TransferMemory, type TransferProgram } from './transfer.js';

/** A transfer to memory of another process ends by then: its owner may answer slowly, and this thread has other work. */
const PATIENCE_MS = 5000;

/** The engine's side in the machine thread: begins and ends transfers, which run in the event thread. */
export class DmaEngine {
  /** Whether the function may access memory. */
  isMaster = false;
  /** Whether its addresses are wrong. */
  isAstray = false;
  readonly #state: CardState;
  readonly #call: (command: CardCommand) => void;
  #dma: DeviceDma | undefined;
  #number = 0;

  constructor(state: CardState, call: (command: CardCommand) => void) {
    this.#state = state;
    this.#call = call;
  }

  attach(dma: DeviceDma): void {
    this.#dma = dma;
    this.#call({ kind: 'attach', table: dma.table });
  }

  /** When it returns, nothing accesses memory any more. */
  detach(): void {
    this.#number++;
    this.#dma = undefined;
    this.#call({ kind: 'detach' });
  }

  /** Begins a transfer, which takes the place of one that still runs. */
  start(program: TransferProgram, delayMs: number): void {
    this.#number++;
    if (!this.isMaster) {
      this.#state.endTransfer({ moved: 0, crc: 0 }, false);
      return;
    }
    this.#state.set('dmaStatus', DMA_BUSY);
    const astray = this.isAstray ? BigInt(ASTRAY) : 0n;
    this.#call({
      kind: 'transfer',
      number: this.#number,
      program: { ...program, source: program.source + astray, target: program.target + astray },
      delayMs: Math.min(delayMs, MOST_DELAY_MS),
    });
  }

  /** Ends the transfer, if there is one, as if it had never begun. When it returns, nothing accesses memory any more. */
  stop(): void {
    this.#number++;
    this.#call({ kind: 'stop' });
  }

  /** Performs a transfer to memory of another process. */
  takeOver({ number, program }: RemoteNotice): void {
    const dma = this.#dma;
    if (dma === undefined || number !== this.#number) return;
    const end = performance.now() + PATIENCE_MS;
    const access = (iova: number, data: Uint8Array, isWrite: boolean): boolean => {
      if (performance.now() > end) return false;
      try {
        dma.rw(BigInt(iova) as Iova, data, isWrite);
        return true;
      } catch (error) {
        if (error instanceof SysError) return false;
        throw error;
      }
    };
    const memory: TransferMemory = {
      read: (iova, data) => access(iova, data, false),
      write: (iova, data) => access(iova, data, true),
    };
    const transfer = new Transfer(program, memory);
    let result = transfer.step();
    while (result === 'more') result = transfer.step();
    this.#state.endTransfer(transfer, result === 'done');
  }
}
