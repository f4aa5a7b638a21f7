/** For lab tests: capture files of libpcap's format. https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html */
import { readFileSync, writeFileSync } from 'node:fs';

/** Times with nanoseconds, and with microseconds. */
const MAGICS: readonly number[] = [0xa1b2_3c4d, 0xa1b2_c3d4];
const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
const LINKTYPE_ETHERNET = 1;

/** The frames of a capture, which may still grow: without the last one while only part of it is there. */
export function framesOf(path: string): Uint8Array[] {
  const bytes = readFileSync(path);
  if (!MAGICS.includes(bytes.readUInt32LE(0))) throw new Error(`${path} is no capture`);
  const frames: Uint8Array[] = [];
  for (let at = FILE_HEADER_BYTES; at + RECORD_HEADER_BYTES <= bytes.length; ) {
    const start = at + RECORD_HEADER_BYTES;
    at = start + bytes.readUInt32LE(at + 8);
    if (at <= bytes.length) frames.push(bytes.subarray(start, at));
  }
  return frames;
}

/** A capture of these frames, all at the beginning of 1970. */
export function writeCapture(path: string, frames: readonly Uint8Array[]): void {
  const header = Buffer.alloc(FILE_HEADER_BYTES);
  for (const [i, word] of [MAGICS[1] as number, 2 | (4 << 16), 0, 0, 65_535, LINKTYPE_ETHERNET].entries())
    header.writeUInt32LE(word, 4 * i);
  const records = frames.flatMap((frame) => {
    const record = Buffer.alloc(RECORD_HEADER_BYTES);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return [record, frame];
  });
  writeFileSync(path, Buffer.concat([header, ...records]));
}
