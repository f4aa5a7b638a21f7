import type { DeviceDma } from '../../vfio/driver.js';
import type { CardState } from './card-state.js';
import type { DmaLog } from './dma-log.js';
import { ASTRAY } from './faults.js';
import type { CardCommand, RemoteNotice } from './messages.js';
import { RemoteTransfer } from './remote-transfer.js';
import { DMA_BUSY, MOST_DELAY_MS } from './spec.js';
import type { TransferProgram } from './transfer.js';

const NOTHING: TransferProgram = { command: 0, source: 0n, target: 0n, length: 0, value: 0 };

/** The engine's side in the machine thread: begins and ends transfers, which run in the event thread. */
export class DmaEngine {
  /** Whether its addresses are wrong. */
  isAstray = false;
  readonly #state: CardState;
  readonly #log: DmaLog;
  readonly #call: (command: CardCommand) => unknown;
  #dma: DeviceDma | undefined;
  #number = 0;
  #isMaster = false;
  #isPaused = false;
  /** The transfer that runs, or that has ended since. */
  #program: TransferProgram = NOTHING;

  constructor(state: CardState, log: DmaLog, call: (command: CardCommand) => unknown) {
    this.#state = state;
    this.#log = log;
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

  /** Whether the function may access memory: a transfer ends with an error when it may not any more. */
  set isMaster(value: boolean) {
    this.#isMaster = value;
    if (value || this.#isPaused || !this.#isBusy) return;
    this.stop();
    this.#state.endTransfer({ moved: 0, crc: 0 }, false);
  }

  /** Whether the device is stopped for migration: its transfer then begins anew when it goes on. */
  set isPaused(value: boolean) {
    this.#isPaused = value;
    if (value) this.stop();
    else if (this.#isBusy) this.start(this.#program, 0);
  }

  get #isBusy(): boolean {
    return this.#state.get('dmaStatus') === DMA_BUSY;
  }

  /** Begins a transfer, which takes the place of one that still runs. */
  start(program: TransferProgram, delayMs: number): void {
    this.#number++;
    if (!this.#isMaster) {
      this.#state.endTransfer({ moved: 0, crc: 0 }, false);
      return;
    }
    this.#program = program;
    this.#state.set('dmaStatus', DMA_BUSY);
    if (this.#isPaused) return;
    const astray = this.isAstray ? BigInt(ASTRAY) : 0n;
    this.#call({
      kind: 'transfer',
      number: this.#number,
      program: { ...program, source: program.source + astray, target: program.target + astray },
      delayMs: Math.min(delayMs, MOST_DELAY_MS),
      asksUnmapped: this.#dma?.unmapped !== undefined,
    });
  }

  /** Ends the transfer, if there is one, as if it had never begun. When it returns, nothing accesses memory any more. */
  stop(): void {
    this.#number++;
    this.#call({ kind: 'stop' });
  }

  /** What a migration takes along: the transfer that runs. */
  get saved(): Uint32Array<ArrayBuffer> {
    const { command, source, target, length, value } = this.#program;
    const halves = [source, target].flatMap((address) => [
      Number(address & 0xffff_ffffn),
      Number(address >> 32n),
    ]);
    return Uint32Array.of(command, length, value, ...halves);
  }

  /** Takes over {@link saved}; whatever a guest could have programmed. */
  restore(words: Uint32Array): boolean {
    const [command = 0, length = 0, value = 0, ...halves] = words;
    const address = (at: number) => BigInt(halves[at] ?? 0) | (BigInt(halves[at + 1] ?? 0) << 32n);
    this.#program = { command, length, value, source: address(0), target: address(2) };
    return true;
  }

  /** Performs a transfer to memory of another process, or to what is not mapped. */
  takeOver({ number, program }: RemoteNotice): void {
    const dma = this.#dma;
    if (dma === undefined || number !== this.#number) return;
    new RemoteTransfer({
      program,
      dma,
      write: (iova, bytes) => this.#log.add(iova, bytes),
      isCurrent: () => number === this.#number,
      ended: (transfer, isDone) => this.#state.endTransfer(transfer, isDone),
    }).run();
  }
}
