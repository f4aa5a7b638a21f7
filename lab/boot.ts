import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { deviceTable } from './devices.js';
import { projectFolder } from './paths.js';
import { spawnBound } from './process.js';
import { type L1Machine, l1Arguments } from './qemu.js';
import { Scratch } from './scratch.js';
import { programOf, userland } from './userland.js';

/** A QEMU process and the folder that it shares with L1. Disposing, or the end of this process in whatever way, ends it. */
export class Boot implements AsyncDisposable {
  readonly qemu: ChildProcess;
  readonly #scratch: Scratch;
  readonly #kill: () => void;
  #errors = '';

  private constructor(scratch: Scratch, qemu: ChildProcess) {
    this.#scratch = scratch;
    this.qemu = qemu;
    this.#kill = () => void qemu.kill('SIGKILL');
  }

  /** @param environment `NAME=value` of variables for commands in L1 */
  static start(machine: L1Machine, environment: readonly string[]): Boot {
    const scratch = Scratch.create();
    const { folder } = scratch;
    writeFileSync(join(folder, 'environment'), environment.join('\n'));
    for (const name of machine.devices.filter((device) => deviceTable[device].backend === 'disk')) {
      const disk = join(folder, `${name}.img`);
      writeFileSync(disk, '');
      truncateSync(disk, 64 << 20);
    }
    const shares = { project: projectFolder, node: dirname(process.execPath), run: folder };
    const [program, ...loader] = programOf(userland, 'usr/bin/qemu-system-x86_64');
    const qemu = spawnBound([program!, ...loader, ...l1Arguments(machine, shares)], {
      stdio: machine.shell ? 'inherit' : ['ignore', 'ignore', 'pipe'],
    });
    const boot = new Boot(scratch, qemu);
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
    this.#scratch[Symbol.dispose]();
  }
}
