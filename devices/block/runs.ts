import { lengthOf } from '../memory-parts.js';

/** A range of a file, and the memory for it. */
interface Run {
  readonly offset: number;
  readonly parts: Uint8Array[];
  bytes: number;
}

/** Ranges of a file, of which adjacent ones are one. */
export class Runs {
  readonly list: Run[] = [];

  add(offset: number, parts: readonly Uint8Array[]): void {
    const bytes = lengthOf(parts);
    const last = this.list.at(-1);
    if (last === undefined || last.offset + last.bytes !== offset) {
      this.list.push({ offset, parts: [...parts], bytes });
      return;
    }
    for (const part of parts) last.parts.push(part);
    last.bytes += bytes;
  }
}
