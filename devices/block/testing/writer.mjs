/**
 * Does operations on a disk, one after the other, and says each one that is done by a byte on stdout. Started by
 * qcow2-kills.test.ts, which kills it.
 * Arguments: the disk and the operations, both as JSON; an operation is [kind, sector, sectors, tag].
 */
import { readFileSync, writeSync } from 'node:fs';
import { openImage } from '../../../dist/devices/block/index.js';

const [disk, operations] = process.argv.slice(2);
const image = openImage(JSON.parse(disk));
const act = {
  write: (offset, bytes, tag) => {
    const words = new Uint32Array(bytes / 4);
    words.fill(tag);
    const whole = new Uint8Array(words.buffer);
    // In two parts, as a guest's buffers.
    image.write([whole.subarray(0, bytes / 2), whole.subarray(bytes / 2)], offset);
  },
  zero: (offset, bytes, mayFree) => image.writeZeroes(offset, bytes, mayFree === 1),
  discard: (offset, bytes) => image.discard(offset, bytes),
  flush: () => image.flush(),
};
for (const [kind, sector, sectors, tag] of JSON.parse(readFileSync(operations, 'utf8'))) {
  act[kind](sector * 512, sectors * 512, tag);
  writeSync(1, '.');
}
image.flush();
image[Symbol.dispose]();
writeSync(1, '!');
