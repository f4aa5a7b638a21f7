/** A copy of the project with the mutants in it: the clone stays as it is. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { instrument, type Mutant } from './instrument.js';

/** Files of a test run in the copy. */
export class Workspace implements Disposable {
  /** The copy's root. */
  readonly root: string;
  readonly #switch: string;

  /** @param project root of the clone */
  constructor(project: string, mutants: readonly Mutant[]) {
    this.root = mkdtempSync(join(tmpdir(), 'tsvisor-mutants-'));
    this.#switch = join(this.root, '.mutants');
    chmodSync(this.root, 0o755); // a test may become another user, and the switch is read then
    const git = execFileSync('git', ['ls-files', '-coz', '--exclude-standard'], {
      cwd: project,
      encoding: 'utf8',
    });
    for (const file of git.split('\0').filter((name) => name !== '')) {
      mkdirSync(dirname(join(this.root, file)), { recursive: true });
      cpSync(join(project, file), join(this.root, file));
    }
    symlinkSync(join(project, 'node_modules'), join(this.root, 'node_modules'));
    mkdirSync(this.#switch);
    this.turnOn(0);
    for (const file of new Set(mutants.map((mutant) => mutant.file))) {
      const text = readFileSync(join(project, file), 'utf8');
      const own = mutants.filter((mutant) => mutant.file === file);
      writeFileSync(join(this.root, file), instrument(text, own, this.#switch));
    }
    execFileSync('npx', ['rolldown', '-c'], { cwd: this.root, stdio: ['ignore', 'ignore', 'inherit'] });
  }

  /** @param id of a mutant; 0 for none */
  turnOn(id: number): void {
    writeFileSync(join(this.#switch, 'on'), String(id));
  }

  /** Which mutants are reached while `run` is on the way. */
  async reached(run: () => Promise<void>): Promise<ReadonlySet<number>> {
    const file = join(this.#switch, 'reached');
    writeFileSync(file, '');
    chmodSync(file, 0o666);
    this.turnOn(-1);
    await run();
    this.turnOn(0);
    return new Set(readFileSync(file, 'utf8').split('\n').filter(Boolean).map(Number));
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
