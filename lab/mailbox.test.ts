import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MailboxReader } from './mailbox.js';

function read(chunks: readonly Buffer[]): { output: string; ends: number[][] } {
  let output = '';
  const ends: number[][] = [];
  const reader = new MailboxReader(
    (bytes) => {
      output += bytes.toString('latin1');
    },
    (number, status) => ends.push([number, status]),
  );
  for (const chunk of chunks) reader.push(chunk);
  return { output, ends };
}

const trailer = (number: number, status: number): string => `\x1eLAB ${number} ${status}\x1e`;

describe('MailboxReader', () => {
  test('passes output on at once, without waiting for a trailer', () => {
    expect(read([Buffer.from('half a li')])).toEqual({ output: 'half a li', ends: [] });
  });

  test('separates output from trailers wherever the stream is split', () => {
    // Single marks, and text that resembles a trailer, belong to the output.
    const piece = fc.constantFrom('plain', '\n', '\x1e', '\x1eLAB 1', '\x1eLAB x 0');
    const command = fc.record({ words: fc.array(piece), status: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(
        fc.array(command, { maxLength: 4 }),
        fc.array(fc.nat(60), { maxLength: 9 }),
        (commands, cuts) => {
          // A mark right before a trailer would start an empty trailer; no program's output ends like that.
          const texts = commands.map(({ words }) => `${words.join('')}${'.'.repeat(32)}`);
          const stream = Buffer.from(
            commands.map(({ status }, index) => texts[index] + trailer(index + 1, status)).join(''),
            'latin1',
          );
          const at = [...new Set(cuts)].sort((a, b) => a - b);
          const chunks = [0, ...at].map((start, index) => stream.subarray(start, at[index] ?? stream.length));
          expect(read(chunks)).toEqual({
            output: texts.join(''),
            ends: commands.map(({ status }, index) => [index + 1, status]),
          });
        },
      ),
    );
  });
});
