/** A client that sends anything: the server answers each command or ends the connection, and nothing is left behind. */
import { readdirSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SysError } from '../../../sys/error.js';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory, liveMappings } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import * as protocol from '../protocol.js';
import { type Frame, frames } from '../testing/frames.js';
import { RawClient } from '../testing/raw-client.js';

/** Frames in all; `npm run nightly` and CI take more. */
const FRAMES = Number(process.env.TSVISOR_FUZZ_FRAMES ?? 20_000);
const FRAMES_PER_CLIENT = 40;

const openFds = (): number => readdirSync('/proc/self/fd').length;

/** Descriptors of each kind, to be sent along. */
function descriptors(scope: Scope): Readonly<Record<Frame['fds'][number], number>> {
  const memory = scope.own(createSharedMemory('fuzz', 16_384));
  const [pipe, other] = unixSocketPair('fuzz');
  scope.own(other);
  return {
    memory: memory.fd.number,
    eventfd: scope.own(Fd.eventfd('fuzz')).number,
    pipe: scope.own(pipe).number,
  };
}

const wantsAnswer = (bytes: Uint8Array): boolean => {
  const flags = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
  return (flags & (protocol.TYPE_MASK | protocol.FLAG_NO_REPLY)) === 0;
};

/** One client's life. Returns the frames that were answered, or taken without. */
function live(script: readonly Frame[], fds: ReturnType<typeof descriptors>): number {
  using client = new RawClient(true);
  client.negotiate();
  let taken = 0;
  for (const frame of script) {
    const isWhole = new DataView(frame.bytes.buffer).getUint32(4, true) === frame.bytes.length;
    try {
      client.send(
        frame.bytes,
        frame.fds.map((kind) => fds[kind]),
      );
      client.settle();
    } catch (error) {
      // The server gave up; nothing else may come out of it.
      expect(error).toBeInstanceOf(SysError);
      expect((error as SysError).code).toMatch(/^(EPROTO|ETIMEDOUT|ECONNRESET)$/);
      return taken;
    }
    taken++;
    let answers = 0;
    for (let answer = client.receive(); answer !== undefined; answer = client.receive()) {
      for (const fd of answer.fds) fd[Symbol.dispose]();
      answers++;
    }
    if (!isWhole) return taken; // from here on nobody knows where a frame begins
    // A device that asks for memory that is not shared gets no answer here, and gives up.
    expect(answers).toBeGreaterThanOrEqual(wantsAnswer(frame.bytes) ? 1 : 0);
  }
  return taken;
}

test(`${FRAMES} frames of hostile clients: no throw, no hang, nothing left open`, () => {
  let sent = 0;
  let clients = 0;
  {
    using scope = new Scope();
    const fds = descriptors(scope);
    live([], fds);
    const [before, mapped] = [openFds(), liveMappings()];
    const script = fc.array(frames, { minLength: FRAMES_PER_CLIENT, maxLength: FRAMES_PER_CLIENT });
    while (sent < FRAMES) {
      fc.assert(
        fc.property(script, (all) => {
          sent += live(all, fds);
          clients++;
        }),
        { numRuns: 20 },
      );
      expect([openFds(), liveMappings()]).toEqual([before, mapped]);
    }
  }
  console.log(`${sent} frames of ${clients} clients`);
}, 600_000);
