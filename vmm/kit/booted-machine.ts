/** A machine that has booted once, for tests that each begin where it has got to. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { cpus, release, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fromNodeError } from '../../sys/error.js';
import type { VmConfigInput } from '../config.js';
import type { RestoreChanges } from '../snapshot/restore.js';
import { version } from '../version.js';
import type { VirtualMachine, VmObserver } from '../virtual-machine.js';
import { FreshMachine, type TestedMachine } from './fresh-machine.js';

/** How {@link BootedMachine.boot} boots, and where it keeps the result. */
export interface BootOptions {
  /** The machine; each of its devices has to be one that can be saved. */
  readonly config: VmConfigInput;
  /** It has booted once the guest says this on COM1. */
  readonly until: string | RegExp;
  /** How long that may take, in milliseconds. Default: 60,000 */
  readonly timeoutMs?: number;
  /**
   * A folder that keeps booted machines for the next time: one for each configuration, kernel, host and version. What is of no use
   * any more is yours to delete. Without it, a temporary folder that goes with dispose.
   */
  readonly cache?: string;
}

/** What starts machines; the package's, or a fake. */
interface Starter<M extends SavableMachine> {
  start(config: VmConfigInput, observer: VmObserver): M;
  restore(folder: string, changes: RestoreChanges, observer: VmObserver): M;
}
/** What of a machine {@link BootedMachine} uses. */
export type SavableMachine = TestedMachine & Pick<VirtualMachine, 'snapshot'>;

/**
 * A saved machine that has booted. {@link start} gives a test a machine of its own that goes on from there, within a fraction of a second;
 * any number of them run at once, and share the memory that they do not change. Main thread.
 */
export class BootedMachine<M extends SavableMachine = VirtualMachine> implements Disposable {
  /** Where it is saved: `VirtualMachine.restore` takes it. */
  readonly folder: string;
  readonly #starter: Starter<M>;
  readonly #temporary: string | undefined;

  private constructor(folder: string, starter: Starter<M>, temporary: string | undefined) {
    this.folder = folder;
    this.#starter = starter;
    this.#temporary = temporary;
  }

  /**
   * Boots a machine and saves it, unless the cache has it.
   * @throws ConfigError, and what ends a machine that does not start; SysError ETIMEDOUT with what the guest has said instead; as
   *   VirtualMachine.snapshot
   */
  static async boot(options: BootOptions): Promise<BootedMachine> {
    const { VirtualMachine } = await import('../virtual-machine.js'); // only now: tests of drivers need none of it
    return BootedMachine.bootWith(VirtualMachine, options);
  }

  /** @internal As {@link boot}, with machines of another make. */
  static async bootWith<M extends SavableMachine>(
    starter: Starter<M>,
    { config, until, timeoutMs, cache }: BootOptions,
  ): Promise<BootedMachine<M>> {
    const parent =
      cache === undefined ? mkdtempSync(join(tmpdir(), 'tsvisor-booted-')) : made(resolve(cache));
    const temporary = cache === undefined ? parent : undefined;
    const folder = join(parent, cache === undefined ? 'machine' : nameOf(config, until));
    try {
      if (!existsSync(folder)) {
        await using machine = new FreshMachine((observer) => starter.start(config, observer));
        await machine.says(until, timeoutMs === undefined ? {} : { timeoutMs });
        await machine.vm.snapshot(folder);
      }
      return new BootedMachine(folder, starter, temporary);
    } catch (error) {
      if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true });
      throw error;
    }
  }

  /**
   * Starts a machine where this one was saved. @param changes as for VirtualMachine.restore: back-ends, options of devices
   * @throws as VirtualMachine.restore
   */
  start(changes: RestoreChanges = {}): FreshMachine<M> {
    return new FreshMachine((observer) => this.#starter.restore(this.folder, changes, observer));
  }

  /** Removes a temporary folder. Machines that run go on. */
  [Symbol.dispose](): void {
    if (this.#temporary !== undefined) rmSync(this.#temporary, { recursive: true, force: true });
  }
}

function made(folder: string): string {
  try {
    mkdirSync(folder, { recursive: true });
    return folder;
  } catch (error) {
    throw fromNodeError(error, 'mkdir', folder);
  }
}

/** By all that a saved machine depends on: an update of the kernel is another machine. */
function nameOf(config: VmConfigInput, until: string | RegExp): string {
  const files = [config.kernel, config.initrd, config.guest].flatMap((path) => {
    const stats = path === undefined ? undefined : statSync(path, { throwIfNoEntry: false });
    return stats === undefined ? [] : [resolve(path as string), stats.size, stats.mtimeMs];
  });
  const host = [cpus()[0]?.model, release(), version()];
  const text = JSON.stringify([config, String(until), files, host], (_key, value: unknown) =>
    typeof value === 'bigint' ? `${value}` : value,
  );
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}
