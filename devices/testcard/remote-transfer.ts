import type { Iova } from '../../sys/address.js';
import { isErrno, SysError } from '../../sys/error.js';
import type { DeviceDma } from '../../vfio/driver.js';
import { Transfer, type TransferMemory, type TransferProgram } from './transfer.js';

/** It ends by then: the memory's owner may answer slowly, and this thread has other work. */
const PATIENCE_MS = 5000;

interface Access {
  readonly iova: number;
  readonly data: Uint8Array;
  readonly isWrite: boolean;
}

/** What a {@link RemoteTransfer} is of. */
export interface RemoteTransferParts {
  readonly program: TransferProgram;
  readonly dma: DeviceDma;
  /** Called before each write, which may fail after a part of it. */
  readonly write: (iova: number, bytes: number) => void;
  /** False once the transfer is stopped: nothing happens to it after that. */
  readonly isCurrent: () => boolean;
  readonly ended: (transfer: Transfer, isDone: boolean) => void;
}

/**
 * A transfer in the machine thread: to memory of another process, and to addresses that no map covers, for which it asks as
 * hardware asks its bus.
 */
export class RemoteTransfer {
  readonly #parts: RemoteTransferParts;
  readonly #transfer: Transfer;
  readonly #end = performance.now() + PATIENCE_MS;
  /** Of the step that runs: what it was refused, to be asked for, and what has been answered. */
  #refused: Access | undefined;
  #answered: Access[] = [];

  constructor(parts: RemoteTransferParts) {
    this.#parts = parts;
    const memory: TransferMemory = {
      read: (iova, data) => this.#access({ iova, data, isWrite: false }),
      write: (iova, data) => this.#access({ iova, data, isWrite: true }),
    };
    this.#transfer = new Transfer(parts.program, memory);
  }

  /** Runs until it ends, or until an answer is awaited, after which it goes on by itself. */
  run(): void {
    let result = this.#transfer.step();
    while (result === 'more' || this.#refused !== undefined) {
      if (result === 'more') this.#answered = [];
      else if (!this.#ask(this.#refused as Access)) return;
      result = this.#transfer.step();
    }
    this.#parts.ended(this.#transfer, result === 'done');
  }

  #access(access: Access): boolean {
    const { iova, data, isWrite } = access;
    const answer = this.#answered.find(
      (each) => each.iova === iova && each.data.length === data.length && each.isWrite === isWrite,
    );
    if (answer !== undefined) {
      if (!isWrite) data.set(answer.data);
      return true;
    }
    if (performance.now() > this.#end) return false;
    const { dma, write } = this.#parts;
    try {
      if (isWrite) write(iova, data.length);
      dma.rw(BigInt(iova) as Iova, data, isWrite);
      return true;
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      if (isErrno(error, 'EFAULT') && dma.unmapped !== undefined) this.#refused = access;
      return false;
    }
  }

  /** Returns whether the answer is there already: the step is then tried again, and finds it. */
  #ask({ iova, data, isWrite }: Access): boolean {
    this.#refused = undefined;
    const copy = data.slice();
    let isHere: boolean | undefined;
    this.#parts.dma.unmapped?.access(BigInt(iova) as Iova, copy, isWrite, (error) => {
      if (!this.#parts.isCurrent()) return;
      if (error === undefined) this.#answered.push({ iova, data: copy, isWrite });
      if (error !== undefined) this.#parts.ended(this.#transfer, false);
      else if (isHere === undefined) isHere = true;
      else this.run();
    });
    isHere ??= false;
    return isHere;
  }
}
