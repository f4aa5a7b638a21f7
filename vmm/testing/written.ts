/** For tests: what a command writes. */
import { Writable } from 'node:stream';
import { Output, type OutputStream } from '../output.js';

export interface Written {
  readonly out: Output;
  /** All that was written so far. */
  readonly text: () => string;
}

export function collect(): Written {
  let text = '';
  const stream = new Writable({
    write(piece: Buffer, _encoding, done) {
      text += piece.toString();
      done();
    },
  });
  return { out: new Output(stream as unknown as OutputStream), text: () => text };
}
