import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { deviceTable } from './devices.js';
import { projectFolder } from './paths.js';
import { spawnBound } from './process.js';
import { type L1Machine, l1Arguments, qemuOf } from './qemu.js';
import { Scratch } from './scratch.js';
import { ServedDevices } from './served-devices.js';
import { programOf } from './userland.js';

/** A QEMU process and the folder that it shares with L1. Disposing, or the end of this process in whatever way, ends it. */
export class Boot implements AsyncDisposable {
  readonly qemu: ChildProcess;
  readonly #scratch: Scratch;
  readonly #served: ServedDevices;
  readonly #kill: () => void;
  #errors = '';

  private constructor(scratch: Scratch, served: ServedDevices, qemu: ChildProcess) {
    this.#scratch = scratch;
    this.#served = served;
    this.qemu = qemu;
    this.#kill = () => void qemu.kill('SIGKILL');
  }

  /** @param environment `NAME=value` of variables for commands in L1 */
  static async start(machine: L1Machine, environment: readonly string[]): Promise<Boot> {
    const scratch = Scratch.create();
    const { folder } = scratch;
    const served = await ServedDevices.start(machine.served, folder).catch((error: unknown) => {
      scratch[Symbol.dispose]();
      throw error;
    });
    writeFileSync(join(folder, 'environment'), environment.join('\n'));
    for (const name of machine.devices.filter((device) => deviceTable[device].backend === 'disk')) {
      const disk = join(folder, `${name}.img`);
      writeFileSync(disk, '');
      truncateSync(disk, 64 << 20);
    }
    const shares = { project: projectFolder, node: dirname(process.execPath), run: folder };
    const [program, ...loader] = programOf(qemuOf(machine), 'usr/bin/qemu-system-x86_64');
    const argv = l1Arguments(machine, shares, (name) => served.socketOf(name));
    const qemu = spawnBound([program!, ...loader, ...argv], {
      stdio: machine.shell ? 'inherit' : ['ignore', 'ignore', 'pipe'],
    });
    const boot = new Boot(scratch, served, qemu);
    qemu.stderr?.setEncoding('utf8').on('data', (text: string) => {
      boot.#errors += text;
    });
    process.prependListener('exit', boot.#kill); // before its folder is removed
    return boot;
  }

  /** Shared with L1: sockets, disks, console, and the commands to run. */
  get folder(): string {
    return this.#scratch.folder;
  }

  get isGone(): boolean {
    return this.qemu.exitCode !== null || this.qemu.signalCode !== null;
  }

  /** What L1's kernel has printed until now. */
  console(): string {
    try {
      return readFileSync(join(this.folder, 'console'), 'latin1');
    } catch {
      return ''; // QEMU has not created it yet, or ended before
    }
  }

  /** The end of the output of QEMU and of L1's console. */
  lastWords(): string {
    return `${this.#errors}${this.console()}`.slice(-2000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.off('exit', this.#kill);
    if (!this.isGone) {
      this.#kill();
      await once(this.qemu, 'exit');
    }
    await this.#served[Symbol.asyncDispose]();
    this.#scratch[Symbol.dispose]();
  }
}
