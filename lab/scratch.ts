import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hasOwnerEnded, ownerText } from './owner.js';

const PREFIX = 'tsvisor-lab-';
const OWNER = 'owner';

const remove = (folder: string): void => rmSync(folder, { recursive: true, force: true });

/** Removes the folders of labs that were killed. Those of other users, and those that vanish meanwhile, are left. */
function sweep(parent: string): void {
  for (const name of readdirSync(parent).filter((each) => each.startsWith(PREFIX))) {
    const folder = join(parent, name);
    try {
      if (
        statSync(folder).uid === process.getuid?.() &&
        hasOwnerEnded(readFileSync(join(folder, OWNER), 'utf8'))
      )
        remove(folder);
    } catch {} // no owner's file: it is being created, or removed, or is none of ours
  }
}

/** A folder for sockets, disks and logs. Disposing it, or the end of this process, removes it; if this process is killed, the next one does. */
export class Scratch implements Disposable {
  readonly folder: string;
  readonly #remove: () => void;

  private constructor(folder: string) {
    this.folder = folder;
    this.#remove = () => remove(folder);
    process.on('exit', this.#remove);
  }

  static create(parent: string = tmpdir()): Scratch {
    sweep(parent);
    const scratch = new Scratch(mkdtempSync(join(parent, PREFIX)));
    writeFileSync(join(scratch.folder, OWNER), ownerText());
    return scratch;
  }

  [Symbol.dispose](): void {
    process.off('exit', this.#remove);
    this.#remove();
  }
}
