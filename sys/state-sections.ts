/**
 * A saved state as a file: named sections, each with a version, a length and a checksum. What is read is untrusted: a wrong
 * file is an error that names the section, and takes no more memory than the file has bytes.
 *
 *   8 bytes  "tsvstate"
 *   u32      format, 1
 *   sections: u32 version, u32 length of the name, u64 length of the data, u32 CRC-32 of version, name and data, name, data
 *   the last section is called "end" and is empty: a file that was cut off lacks it
 */
import { errno } from './errno.js';
import { SysError } from './error.js';

/** A part of a saved state. */
export interface StateSection {
  /** Unique in its state: `vcpu 0/regs`. */
  readonly name: string;
  /** Of its data's layout, from 1 on; a reader refuses a newer one. */
  readonly version: number;
  /** What its owner has written; little-endian. */
  readonly data: Uint8Array;
}

const MAGIC = 'tsvstate';
const FORMAT = 1;
const HEADER_BYTES = 12;
const SECTION_BYTES = 20;
const NAME = /^[\w. /-]{1,64}$/;
const END = 'end';

/** Of `data`, after data with the sum `before`. Most machines are neither saved nor restored, and load no zlib. */
const crc32 = (data: Uint8Array, before?: number): number =>
  process.getBuiltinModule('node:zlib').crc32(data, before);

/** @throws RangeError for a name that is none, or that two sections have */
export function encodeSections(sections: readonly StateSection[]): Uint8Array {
  const names = new Set<string>([END]);
  for (const { name } of sections) {
    if (!NAME.test(name) || names.has(name)) throw new RangeError(`a section cannot be called '${name}'`);
    names.add(name);
  }
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(MAGIC, 'latin1');
  header.writeUInt32LE(FORMAT, MAGIC.length);
  const end = { name: END, version: 1, data: new Uint8Array(0) };
  return Buffer.concat([header, ...[...sections, end].flatMap(encodeSection)]);
}

function encodeSection({ name, version, data }: StateSection): Uint8Array[] {
  const text = Buffer.from(name, 'latin1');
  const head = Buffer.alloc(SECTION_BYTES);
  head.writeUInt32LE(version, 0);
  head.writeUInt32LE(text.length, 4);
  head.writeBigUInt64LE(BigInt(data.length), 8);
  head.writeUInt32LE(crc32(data, crc32(text, crc32(head.subarray(0, 4)))), 16);
  return [head, text, data];
}

/**
 * The sections of a file, whose data are views of `bytes`.
 * @param target names the file in errors
 * @throws SysError EINVAL if it is no saved state; ENOTSUP for a format of the future; EBADMSG if it was damaged or cut off,
 *   with the section
 */
export function decodeSections(bytes: Uint8Array, target: string): StateSection[] {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const fail = (code: 'EINVAL' | 'ENOTSUP' | 'EBADMSG', hint: string) =>
    new SysError({ call: 'load', target, errno: errno[code], hint });
  if (view.toString('latin1', 0, MAGIC.length) !== MAGIC) throw fail('EINVAL', 'it is no saved state');
  if (view.length < HEADER_BYTES) throw fail('EBADMSG', 'it ends inside its header');
  const format = view.readUInt32LE(MAGIC.length);
  if (format !== FORMAT) throw fail('ENOTSUP', `its format is ${format}, and this version reads ${FORMAT}`);
  const sections = new Map<string, StateSection>();
  for (let at = HEADER_BYTES, before = 'its header'; ; ) {
    const cut = () => fail('EBADMSG', `it ends after ${before}`);
    if (view.length - at < SECTION_BYTES) throw cut();
    const [version, nameBytes, dataBytes, crc] = [
      view.readUInt32LE(at),
      view.readUInt32LE(at + 4),
      view.readBigUInt64LE(at + 8),
      view.readUInt32LE(at + 16),
    ];
    const start = at + SECTION_BYTES + nameBytes;
    if (BigInt(start) + dataBytes > BigInt(view.length)) throw cut();
    const end = start + Number(dataBytes);
    const name = view.toString('latin1', at + SECTION_BYTES, start);
    const sum = crc32(view.subarray(at + SECTION_BYTES, end), crc32(view.subarray(at, at + 4)));
    if (sum !== crc || !NAME.test(name)) throw fail('EBADMSG', `the section after ${before} was damaged`);
    if (name === END) {
      if (end === view.length) return [...sections.values()];
      throw fail('EBADMSG', `${view.length - end} bytes follow its end`);
    }
    if (sections.has(name)) throw fail('EBADMSG', `it has two sections '${name}'`);
    sections.set(name, { name, version, data: view.subarray(start, end) });
    at = end;
    before = `section '${name}'`;
  }
}

/** The sections of one state, taken one by one by those whose state they are. */
export class SectionReader {
  readonly #target: string;
  readonly #left: Map<string, StateSection>;

  /** @param target names the state in errors */
  constructor(sections: readonly StateSection[], target: string) {
    this.#target = target;
    this.#left = new Map(sections.map((section) => [section.name, section]));
  }

  /** Whether there is such a section that nobody has taken yet. */
  has(name: string): boolean {
    return this.#left.has(name);
  }

  /**
   * The data of a section, which is then used up.
   * @param version the newest that the caller reads
   * @param bytes its length, if it is fixed
   * @throws SysError ENOENT if it is missing; ENOTSUP for a newer version, or 0; EINVAL for another length
   */
  take(name: string, version: number, bytes?: number): Uint8Array {
    const section = this.#left.get(name);
    if (section === undefined) throw this.#fail('ENOENT', `section '${name}' is missing`);
    if (section.version < 1 || section.version > version)
      throw this.#fail(
        'ENOTSUP',
        `section '${name}' is version ${section.version}; this reads up to ${version}`,
      );
    if (bytes !== undefined && section.data.length !== bytes)
      throw this.#fail('EINVAL', `section '${name}' has ${section.data.length} bytes, and not ${bytes}`);
    this.#left.delete(name);
    return section.data;
  }

  /**
   * Takes a section as {@link take} does, and has it loaded, so that an error says which it is.
   * @throws SysError as {@link take}; of `load`, with the section's name as hint; EINVAL for data that it cannot read
   */
  load(name: string, version: number, bytes: number | undefined, load: (data: Uint8Array) => void): void {
    const data = this.take(name, version, bytes);
    try {
      load(data);
    } catch (error) {
      if (error instanceof SysError) {
        const { call, target, errno: code, hint } = error;
        const where = `while section '${name}' of ${this.#target} was loaded`;
        throw new SysError({
          call,
          target,
          errno: code,
          hint: hint === undefined ? where : `${where}; ${hint}`,
        });
      }
      if (error instanceof RangeError) throw this.#fail('EINVAL', `section '${name}': ${error.message}`);
      throw error;
    }
  }

  /** @throws SysError ENOTSUP if a section was not taken: the state has what this machine lacks */
  finish(): void {
    const [left] = this.#left.keys();
    if (left !== undefined) throw this.#fail('ENOTSUP', `nothing here takes section '${left}'`);
  }

  #fail(code: 'ENOENT' | 'ENOTSUP' | 'EINVAL', hint: string): SysError {
    return new SysError({ call: 'load', target: this.#target, errno: errno[code], hint });
  }
}
