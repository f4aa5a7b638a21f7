/**
 * Does operations on a disk, several at a time, and says by a byte on stdout each one that is done with all before it. Started
 * by qcow2-kills.test.ts, which kills it. A flush begins once all before it are done; what comes after it goes on meanwhile.
 * Arguments: the disk and the operations, both as JSON; an operation is [kind, sector, sectors, tag].
 */
import { readFileSync, writeSync } from 'node:fs';
import { BlockingIo, finish, openImage, RingIo } from '../../../dist/devices/block/index.js';

/** No operation begins this many after one that is not done. */
const WINDOW = 8;

const [disk, file] = process.argv.slice(2);
const io = RingIo.open() ?? new BlockingIo();
const image = openImage(JSON.parse(disk), io);
const operations = JSON.parse(readFileSync(file, 'utf8'));
const act = {
  write: (offset, bytes, tag, done) => {
    const words = new Uint32Array(bytes / 4);
    words.fill(tag);
    const whole = new Uint8Array(words.buffer);
    // In two parts, as a guest's buffers.
    image.write([whole.subarray(0, bytes / 2), whole.subarray(bytes / 2)], offset, done);
  },
  zero: (offset, bytes, mayFree, done) => image.writeZeroes(offset, bytes, mayFree === 1, done),
  discard: (offset, bytes, _tag, done) => image.discard(offset, bytes, done),
  flush: (_offset, _bytes, _tag, done) => image.flush(done),
};

const running = new Set();
let begun = 0;
let said = 0;
/** What two operations do to the same sectors at a time would be anybody's guess. */
const mustWait = (i) => {
  const [kind, sector, sectors] = operations[i];
  if (i - said >= WINDOW) return true;
  if (kind === 'flush') return said < i;
  return [...running].some((each) => {
    const [other, from, count] = operations[each];
    return other !== 'flush' && sector < from + count && from < sector + sectors;
  });
};

for (const [i, [kind, sector, sectors, tag]] of operations.entries()) {
  while (mustWait(i)) {
    if (io.busy === 0) throw new Error(`nothing to wait for before operation ${i}`);
    io.wait();
  }
  running.add(i);
  begun = i + 1;
  act[kind](sector * 512, sectors * 512, tag, (error) => {
    if (error !== undefined) throw error;
    running.delete(i);
    const first = running.size === 0 ? begun : Math.min(...running);
    for (; said < first; said++) writeSync(1, '.');
  });
}
while (running.size > 0) io.wait();
finish(io, (done) => image.flush(done));
image[Symbol.dispose]();
io[Symbol.dispose]();
writeSync(1, '!');
