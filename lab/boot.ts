import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { deviceTable } from './devices.js';
import { projectFolder } from './paths.js';
import { type L1Machine, l1Arguments } from './qemu.js';
import { programOf, userland } from './userland.js';

/** A QEMU process and the folder that it shares with L1. Disposing, or the end of this process, removes both. */
export class Boot implements AsyncDisposable {
  readonly folder: string;
  readonly qemu: ChildProcess;
  readonly #kill: () => void;
  #errors = '';

  private constructor(folder: string, qemu: ChildProcess) {
    this.folder = folder;
    this.qemu = qemu;
    this.#kill = () => void qemu.kill('SIGKILL');
  }

  /** @param environment `NAME=value` of variables for commands in L1 */
  static start(machine: L1Machine, environment: readonly string[]): Boot {
    const folder = mkdtempSync(join(tmpdir(), 'tsvisor-lab-'));
    writeFileSync(join(folder, 'environment'), environment.join('\n'));
    for (const name of machine.devices.filter((device) => deviceTable[device].backend === 'disk')) {
      const disk = join(folder, `${name}.img`);
      writeFileSync(disk, '');
      truncateSync(disk, 64 << 20);
    }
    const shares = { project: projectFolder, node: dirname(process.execPath), run: folder };
    const [program, ...loader] = programOf(userland, 'usr/bin/qemu-system-x86_64');
    const qemu = spawn(program!, [...loader, ...l1Arguments(machine, shares)], {
      stdio: machine.shell ? 'inherit' : ['ignore', 'ignore', 'pipe'],
    });
    const boot = new Boot(folder, qemu);
    qemu.stderr?.setEncoding('utf8').on('data', (text: string) => {
      boot.#errors += text;
    });
    process.on('exit', boot.#kill);
    return boot;
  }

  get isGone(): boolean {
    return this.qemu.exitCode !== null || this.qemu.signalCode !== null;
  }

  /** The end of the output of QEMU and of L1's console. */
  lastWords(): string {
    let console = '';
    try {
      console = readFileSync(join(this.folder, 'console'), 'latin1');
    } catch {} // QEMU ended before creating it
    return `${this.#errors}${console}`.slice(-2000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.off('exit', this.#kill);
    if (!this.isGone) {
      this.#kill();
      await once(this.qemu, 'exit');
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
