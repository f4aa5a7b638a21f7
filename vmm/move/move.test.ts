/** Both ends of a move, with machines that need no KVM: what arrives, and who runs when it fails. */
import { Duplex, duplexPair } from 'node:stream';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { SysError } from '../../sys/error.js';
import { Mapping } from '../../sys/mapping.js';
import { encodeSections, type StateSection } from '../../sys/state-sections.js';
import type { PreCopyLeft } from '../../vfio/assign/index.js';
import type { DevicePiece } from './arriving-devices.js';
import { FRAME, FrameStream } from './frames.js';
import { PAGE_BYTES, pageBitmap } from './pages.js';
import { type MoveOptions, type MoveProgress, type MovingMachine, moveMachine } from './source.js';
import { type ReceivedMachine, receiveMachine } from './target.js';

const PAGES = 300;
const BYTES = PAGES * PAGE_BYTES;
const SECTIONS: StateSection[] = [{ name: 'vcpu 0/regs', version: 1, data: Uint8Array.of(1, 2, 3) }];
const FUZZ = Number(process.env.TSVISOR_MOVE_MUTATIONS ?? 2000);

const open: Disposable[] = [];
afterEach(() => {
  for (const each of open.splice(0)) each[Symbol.dispose]();
});
const memoryOf = () => {
  const mapping = Mapping.anonymous(BYTES);
  open.push(mapping);
  return mapping.view;
};

/** A guest that writes some pages between two looks at them. */
class FakeSource implements MovingMachine {
  readonly memory = memoryOf();
  is: 'running' | 'stopped' | 'in doubt' | 'gone' = 'running';
  isLogging = false;
  unlogged: string[] = [];
  /** Pages to write before each look; the last entry repeats. */
  writes: readonly (readonly number[])[] = [[3, 4, 250], [4], []];
  looks = 0;
  /** Pieces of devices in each round while it runs, and what is left after each. */
  rounds: readonly (readonly DevicePiece[])[] = [];
  left: readonly PreCopyLeft[] = [];
  #round = 0;
  #pieces: DevicePiece[] = [];
  #value = 0;

  constructor() {
    for (const page of [0, 1, 2, 63, 64, 65, 255, 256, 299])
      this.memory.slice(page * PAGE_BYTES, 8).fill(page + 1);
  }

  async begin() {
    this.isLogging = true;
    this.#pieces = [...(this.rounds[0] ?? [])];
    return { config: { memory: BYTES }, unlogged: this.unlogged };
  }
  async look() {
    const devices = this.left[this.#round] ?? { initialBytes: 0, bytes: 0 };
    this.#pieces = [...(this.rounds[++this.#round] ?? [])];
    return { dirty: await this.dirty(), devices };
  }
  async piece() {
    return this.#pieces.shift();
  }
  async dirty() {
    const bitmap = pageBitmap(BYTES);
    for (const page of this.writes[Math.min(this.looks++, this.writes.length - 1)] ?? []) {
      // A page in four becomes zero again.
      this.memory.slice(page * PAGE_BYTES + 9, 4).fill(++this.#value % 4 === 0 ? 0 : this.#value);
      bitmap[page >> 3]! |= 1 << (page & 7);
    }
    return bitmap;
  }
  async stop() {
    const dirty = await this.dirty();
    this.is = 'stopped';
    return { state: encodeSections(SECTIONS), dirty };
  }
  async abort() {
    this.isLogging = false;
    this.is = 'running';
  }
  async doubt() {
    this.is = 'in doubt';
  }
  async finish() {
    this.is = 'gone';
  }
}

class FakeTarget implements ReceivedMachine {
  readonly memory = memoryOf();
  isRunning = false;
  readonly pieces: string[] = [];
  loaded: readonly StateSection[] | undefined;
  failure: Error | undefined;
  async device({ place, data }: DevicePiece) {
    this.pieces.push(`${place}: ${[...data]}`);
  }
  async load(sections: readonly StateSection[]) {
    if (this.failure !== undefined) throw this.failure;
    this.loaded = sections;
  }
  async takeOver() {
    this.isRunning = true;
  }
}

interface Played {
  readonly source: FakeSource;
  /** As it was made, also if it failed then. */
  readonly target: FakeTarget | undefined;
  readonly sourceError: unknown;
  readonly targetError: unknown;
}

/** Two ends of a connection that ends once so many bytes have gone one way: what has arrived by then can still be read. */
function severed(forward: number, back: number): readonly [Duplex, Duplex] {
  let isCut = false;
  const ends: Duplex[] = [];
  const end = (index: number, bytes: number): Duplex => {
    let left = bytes;
    return new Duplex({
      read: () => {},
      write(piece: Buffer, _encoding, done) {
        if (!isCut) ends[1 - index]?.push(Buffer.from(piece.subarray(0, left)));
        left -= piece.length;
        if (left <= 0 && !isCut) {
          isCut = true;
          for (const each of ends) each.push(null);
        }
        setImmediate(done);
      },
      final: (done) => {
        if (!isCut) ends[1 - index]?.push(null);
        done();
      },
    });
  };
  ends.push(end(0, forward), end(1, back));
  return ends as unknown as readonly [Duplex, Duplex];
}

async function play(
  source: FakeSource,
  {
    options = {} as MoveOptions,
    cut = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
    failure = undefined as Error | undefined,
  } = {},
): Promise<Played> {
  const [here, there] = severed(cut[0] as number, cut[1] as number);
  const timeoutMs = options.timeoutMs ?? 2000;
  const outgoing = new FrameStream(here, 'there', timeoutMs);
  const incoming = new FrameStream(there, 'here', timeoutMs);
  let target: FakeTarget | undefined;
  const [sent, received] = await Promise.allSettled([
    moveMachine(source, outgoing, options),
    receiveMachine(incoming, async (config) => {
      expect(config).toEqual({ memory: BYTES });
      target = new FakeTarget();
      target.failure = failure;
      return target;
    }),
  ]);
  for (const stream of [here, there]) stream.destroy();
  const errorOf = (result: PromiseSettledResult<unknown>) =>
    result.status === 'rejected' ? result.reason : undefined;
  return { source, target, sourceError: errorOf(sent), targetError: errorOf(received) };
}

test('a machine that moves is there with all of its memory and its state, and gone here', async () => {
  const seen: MoveProgress[] = [];
  const { source, target, sourceError, targetError } = await play(new FakeSource(), {
    options: { downtimeMs: 0, progress: (progress) => seen.push(progress) },
  });
  expect([sourceError, targetError]).toEqual([undefined, undefined]);
  expect([source.is, target?.isRunning]).toEqual(['gone', true]);
  expect(Buffer.compare(target?.memory.slice(0, BYTES) as Uint8Array, source.memory.slice(0, BYTES))).toBe(0);
  expect(target?.loaded?.map(({ name, data }) => [name, ...data])).toEqual([['vcpu 0/regs', 1, 2, 3]]);
  const rounds = seen.filter(({ isStopped }) => !isStopped);
  expect(Math.max(...rounds.map(({ round }) => round))).toBe(3);
  expect(rounds.at(-1)?.remainingBytes).toBe(0);
  expect(rounds.map(({ sentBytes }) => sentBytes)).toEqual(
    rounds.map(({ sentBytes }) => sentBytes).sort((x, y) => x - y),
  );
});

test('pages that are zero are not sent in the first round, and are sent when they become zero', async () => {
  const source = new FakeSource();
  source.writes = [[]];
  const { target } = await play(source);
  const full = new FakeSource();
  full.memory.slice(0, BYTES).fill(7);
  full.writes = [[]];
  const before = full.memory.slice(5 * PAGE_BYTES, PAGE_BYTES);
  full.dirty = async () => {
    before.fill(0);
    const bitmap = pageBitmap(BYTES);
    if (full.looks++ === 0) bitmap[0] = 1 << 5;
    return bitmap;
  };
  const filled = await play(full);
  expect(filled.target?.memory.slice(5 * PAGE_BYTES, PAGE_BYTES).every((byte) => byte === 0)).toBe(true);
  expect(filled.target?.memory.slice(6 * PAGE_BYTES, 1)[0]).toBe(7);
  expect(target?.isRunning).toBe(true);
});

const piece = (place: string, ...data: number[]): DevicePiece => ({ place, data: Uint8Array.from(data) });

test('pieces of devices come in their rounds, and it does not stop before their first copies are whole', async () => {
  const source = new FakeSource();
  source.writes = [[]];
  source.rounds = [
    [piece('pci 03.0', 1, 2), piece('pci 04.0', 3)],
    [piece('pci 03.0', 4)],
    [],
    [piece('never', 5)],
  ];
  source.left = [
    { initialBytes: 1, bytes: 1 },
    { initialBytes: 2, bytes: 2 },
    { initialBytes: 0, bytes: 0 },
  ];
  const seen: MoveProgress[] = [];
  const options = { downtimeMs: 60_000, progress: (each: MoveProgress) => void seen.push(each) };
  const { target, sourceError } = await play(source, { options });
  expect(sourceError).toBeUndefined();
  expect(target?.pieces).toEqual(['pci 03.0: 1,2', 'pci 04.0: 3', 'pci 03.0: 4']);
  expect(source.looks).toBe(4);
  expect([...new Set(seen.map(({ remainingBytes }) => remainingBytes))]).toEqual(
    expect.arrayContaining([1, 2, 0]),
  );
});

test('what devices have left counts: one that changes faster than the connection carries is given up', async () => {
  const source = new FakeSource();
  source.writes = [[]];
  source.left = new Array(40).fill({ initialBytes: 0, bytes: 2 ** 40 });
  const { sourceError, target } = await play(source, { options: { downtimeMs: 1000 } });
  expect((sourceError as Error).message).toMatch(
    /ETIME\n.*after 30 rounds, the guest still writes 1048576\.0 MiB/,
  );
  expect([source.is, target?.isRunning]).toEqual(['running', false]);
});

test('a device that always has more to read is left until the next round after a time, and given up in the end', async () => {
  const source = new FakeSource();
  source.writes = [[]];
  source.left = new Array(40).fill({ initialBytes: 1, bytes: 1 });
  source.piece = async () => {
    await new Promise(setImmediate);
    return piece('pci 03.0', 1);
  };
  const { sourceError, target } = await play(source, { options: { timeoutMs: 20 } });
  expect((sourceError as Error).message).toMatch(
    /ETIME\n.*after 30 rounds, devices still have 1 bytes of their first/,
  );
  expect([source.is, source.looks, target?.isRunning]).toEqual(['running', 30, false]);
});

test('progress is shown while devices are read, and what a round still has to send then', async () => {
  const source = new FakeSource();
  source.writes = [[]];
  source.rounds = [Array.from({ length: 400 }, () => piece('pci 03.0', 1))];
  const before: number[] = [];
  const { piece: next } = source;
  source.piece = async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    return await next.call(source);
  };
  const progress = ({ remainingBytes }: MoveProgress) => void before.push(remainingBytes);
  expect((await play(source, { options: { progress } })).sourceError).toBeUndefined();
  expect(before[0]).toBe(BYTES);
});

test('a device that fails while it is read, and a piece that nobody takes, end the move; the machine runs on here', async () => {
  const failing = new FakeSource();
  failing.piece = async () => {
    throw new SysError({ call: 'read', target: '00:03.0 card', errno: 19 });
  };
  const failed = await play(failing);
  expect((failed.sourceError as Error).message).toMatch(/read on 00:03\.0 card: ENODEV/);
  expect((failed.targetError as Error).message).toMatch(/given up: read on 00:03\.0 card/);
  const refused = new FakeSource();
  refused.rounds = [[piece('pci 09.0', 1)]];
  const { device } = FakeTarget.prototype;
  FakeTarget.prototype.device = async () => {
    throw new SysError({ call: 'receive', target: 'it', errno: 71, hint: 'there is none' });
  };
  const { sourceError, target } = await play(refused).finally(() => {
    FakeTarget.prototype.device = device;
  });
  expect((sourceError as Error).message).toMatch(/given up: receive on it: EPROTO/);
  expect([failing.is, refused.is, target?.isRunning]).toEqual(['running', 'running', false]);
});

test('without a limit of the downtime, it stops at once', async () => {
  const { source, target } = await play(new FakeSource(), {
    options: { downtimeMs: Number.POSITIVE_INFINITY },
  });
  expect([source.looks, source.is, target?.isRunning]).toEqual([1, 'gone', true]);
  expect(Buffer.compare(target?.memory.slice(0, BYTES) as Uint8Array, source.memory.slice(0, BYTES))).toBe(0);
});

test('wherever the connection ends, exactly one of them runs, or the machine stands still and says so', async () => {
  const count = { here: 0, there: 0, doubt: 0 };
  await fc.assert(
    fc.asyncProperty(fc.nat(100_000), fc.nat(40), fc.boolean(), async (forward, back, isForward) => {
      const whole = Number.POSITIVE_INFINITY;
      const cut = isForward ? [forward, whole] : [whole, back];
      const { source, target, sourceError, targetError } = await play(new FakeSource(), {
        cut,
        options: { downtimeMs: 0 },
      });
      if (source.is === 'running') {
        count.here++;
        expect(target?.isRunning ?? false).toBe(false);
        expect(sourceError).toBeInstanceOf(SysError);
        expect(source.isLogging).toBe(false);
      } else if (source.is === 'gone') {
        count.there++;
        expect(target?.isRunning).toBe(true);
        expect(targetError).toBeUndefined();
      } else {
        count.doubt++;
        expect(source.is).toBe('in doubt');
        expect((sourceError as SysError).code).toBe('ENOTRECOVERABLE');
      }
    }),
    { numRuns: 100 },
  );
  console.log(count);
  expect(count.here).toBeGreaterThan(20);
});

test('cut at each byte of the target’s answers, the source is in doubt only after its last word', async () => {
  // ready, loaded and running are 8 bytes each.
  for (let back = 0; back <= 24; back++) {
    const { source, target } = await play(new FakeSource(), { cut: [Number.POSITIVE_INFINITY, back] });
    if (back <= 16) expect([source.is, target?.isRunning]).toEqual(['running', false]);
    else
      expect([back, source.is, target?.isRunning]).toEqual([back, back === 24 ? 'gone' : 'in doubt', true]);
  }
});

test('an abort at any moment before the last word leaves the machine running here', async () => {
  for (let moment = 0; moment < 6; moment++) {
    const controller = new AbortController();
    let count = 0;
    const abort = () => {
      if (count++ === moment) controller.abort(new Error('changed my mind'));
    };
    if (moment === 5) abort();
    const source = new FakeSource();
    const { dirty, stop } = source;
    source.dirty = () => {
      abort();
      return dirty.call(source);
    };
    source.stop = () => {
      abort();
      return stop.call(source);
    };
    const options = { downtimeMs: 0, signal: controller.signal, progress: abort };
    if (moment === 5) controller.abort(new Error('changed my mind'));
    const { target, sourceError, targetError } = await play(source, { options });
    expect((sourceError as Error).message).toBe('changed my mind');
    expect([source.is, target?.isRunning ?? false]).toEqual(['running', false]);
    expect((targetError as Error).message).toMatch(/changed my mind|connection is lost/);
  }
});

test('what the target fails with is said at the source, whose machine runs on', async () => {
  const failure = new SysError({
    call: 'load',
    target: 'it',
    errno: 22,
    hint: "section 'vcpu 0/regs': \x1b[2Jno",
  });
  const { source, target, sourceError } = await play(new FakeSource(), { failure });
  expect((sourceError as Error).message).toMatch(
    /EPROTO\n.*given up: load on it: EINVAL.*'vcpu 0\/regs': \\x1b/,
  );
  expect([source.is, target?.isRunning]).toEqual(['running', false]);
});

test('a guest that writes faster than the connection carries is given up after some rounds', async () => {
  const source = new FakeSource();
  source.writes = [Array.from({ length: PAGES }, (_, page) => page)];
  const { sourceError, target } = await play(source, { options: { downtimeMs: 0 } });
  expect((sourceError as SysError).code).toBe('ETIME');
  expect((sourceError as Error).message).toMatch(/after 30 rounds, the guest still writes 1\.2 MiB in each/);
  expect([source.is, target?.isRunning]).toEqual(['running', false]);
});

test('a device that cannot tell what it writes makes the stop copy everything, if that is short enough', async () => {
  const never = new FakeSource();
  never.unlogged = ['00:03.0 card'];
  const { sourceError } = await play(never, { options: { downtimeMs: 0 } });
  expect((sourceError as Error).message).toMatch(/00:03.0 card cannot tell what it writes.*--downtime/s);
  expect([never.is, never.looks]).toEqual(['running', 1]);
  const patient = new FakeSource();
  patient.unlogged = ['00:03.0 card'];
  expect((await play(patient, { options: { downtimeMs: 60_000 } })).target?.isRunning).toBe(true);
});

test('a silent other end is given up after its time', async () => {
  const [a, b] = duplexPair();
  b.resume();
  const source = new FakeSource();
  const stream = new FrameStream(a, 'there', 30);
  await expect(moveMachine(source, stream, {})).rejects.toThrowError(
    /there: ETIMEDOUT\n.*sends nothing for 30 ms/,
  );
  expect(source.is).toBe('running');
});

/** A whole stream, as the source sends it. */
async function recorded(): Promise<Buffer> {
  const [a, b] = duplexPair();
  const pieces: Buffer[] = [];
  const answer = (kind: number) => Buffer.from(Uint32Array.of(kind, 0).buffer);
  b.on('data', (piece: Buffer) => {
    pieces.push(piece);
    const kind = piece.readUInt32LE(0);
    if (kind === FRAME.config) b.write(answer(FRAME.ready));
    if (kind === FRAME.end) b.write(answer(FRAME.loaded));
    if (kind === FRAME.go) b.write(answer(FRAME.running));
  });
  const source = new FakeSource();
  source.rounds = [[piece('pci 03.0', 1, 2, 3), piece('pci 03.0', 4)], [piece('pci 04.0', 5)]];
  await moveMachine(source, new FrameStream(a, 'there', 2000), { downtimeMs: 0 });
  return Buffer.concat(pieces);
}

/** Plays bytes to a target. Returns what it fails with. */
async function receive(bytes: Buffer): Promise<unknown> {
  const [a, b] = duplexPair();
  a.on('error', () => {});
  a.resume();
  a.end(bytes);
  try {
    await receiveMachine(new FrameStream(b, 'here', 2000), async () => new FakeTarget());
    return undefined;
  } catch (error) {
    return error;
  }
}

test(
  `${FUZZ} damaged streams are a clear error each, or only other contents of memory`,
  async () => {
    const whole = await recorded();
    expect(await receive(whole)).toBeUndefined();
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ at: fc.nat(whole.length - 1), byte: fc.nat(255) }), {
          minLength: 1,
          maxLength: 3,
        }),
        fc.option(fc.nat(whole.length - 1)),
        fc.boolean(),
        async (changes, end, isHeader) => {
          const copy = Buffer.from(whole);
          // Half of them in the frames before memory, where most bytes mean something.
          for (const { at, byte } of changes) copy[isHeader ? at % 200 : at] = byte;
          const error = await receive(copy.subarray(0, end ?? copy.length));
          for (const each of open.splice(0)) each[Symbol.dispose]();
          if (error === undefined) return;
          refused++;
          expect(error).toBeInstanceOf(SysError);
          expect((error as Error).message).toMatch(/move|receive|load/);
        },
      ),
      { numRuns: FUZZ },
    );
    expect(refused).toBeGreaterThan(FUZZ / 3);
  },
  120_000 + 20 * FUZZ,
);

test('frames that claim too much, or come out of turn, are refused before anything is read for them', async () => {
  const frame = (kind: number, data: Uint8Array, bytes = data.length) =>
    Buffer.concat([Buffer.from(Uint32Array.of(kind, bytes).buffer), data]);
  const hello = (await recorded()).subarray(0, 20);
  const config = frame(FRAME.config, Buffer.from('{}'));
  const pages = (at: bigint, bytes: number) =>
    frame(FRAME.pages, Buffer.concat([Buffer.from(BigUint64Array.of(at).buffer), Buffer.alloc(bytes)]));
  const zeros = (at: bigint, bytes: bigint) =>
    frame(FRAME.zeros, Buffer.from(BigUint64Array.of(at, bytes).buffer));
  const cases: readonly (readonly [RegExp, ...Buffer[]])[] = [
    [/it sent 'config', where hello is due/, config],
    [/no moved machine/, frame(FRAME.hello, Buffer.alloc(12))],
    [/'config' of 4294967295 bytes, where 1048576/, hello, frame(FRAME.config, Buffer.alloc(0), 0xffff_ffff)],
    [/'pages' of 262153 bytes/, hello, config, frame(FRAME.pages, Buffer.alloc(0), 262153)],
    [/no JSON object/, hello, frame(FRAME.config, Buffer.from('[]'))],
    [/'frame of kind 99'/, hello, config, frame(99, Buffer.alloc(0))],
    [
      /where pages or zeros or device or state or end is due/,
      hello,
      config,
      frame(FRAME.go, Buffer.alloc(0)),
    ],
    [/4096 bytes at 1228800 are no pages of 1228800/, hello, config, pages(BigInt(BYTES), PAGE_BYTES)],
    [/at 18446744073709547520 are no pages/, hello, config, pages(2n ** 64n - 4096n, PAGE_BYTES)],
    [/4095 bytes at 0 are no pages/, hello, config, pages(0n, 4095)],
    [/8192 bytes at 1224704 are no pages/, hello, config, zeros(BigInt(BYTES - PAGE_BYTES), 8192n)],
    [/266240 bytes of zeros, where 262144/, hello, config, zeros(0n, 266240n)],
    [/where state or end is due/, hello, config, frame(FRAME.state, Buffer.alloc(1)), pages(0n, PAGE_BYTES)],
    [/state is short, and not the last one/, hello, config, frame(FRAME.state, Buffer.alloc(0))],
    [
      /state is short, and not the last one/,
      ...[hello, config, frame(FRAME.state, Buffer.alloc(1)), frame(FRAME.state, Buffer.alloc(1))],
    ],
    [/'device' of 262401 bytes/, hello, config, frame(FRAME.device, Buffer.alloc(0), 262401)],
    [/piece of a device without data/, hello, config, frame(FRAME.device, Buffer.alloc(0))],
    [/piece of a device without data/, hello, config, frame(FRAME.device, Buffer.from([5, 1, 2, 3, 4, 5]))],
    [
      /where state or end is due/,
      ...[hello, config, frame(FRAME.state, Buffer.alloc(1)), frame(FRAME.device, Buffer.from([1, 1, 1]))],
    ],
    [/damaged on the way/, hello, config, frame(FRAME.end, Buffer.from([1, 2, 3, 4]))],
    [/it is no saved state/, hello, config, frame(FRAME.end, Buffer.alloc(4))],
    [/given up: \\x07it is full/, hello, frame(FRAME.failed, Buffer.from('\x07it is full'))],
    [/'failed' of 4097 bytes/, frame(FRAME.failed, Buffer.alloc(0), 4097)],
  ];
  for (const [message, ...frames] of cases)
    expect(((await receive(Buffer.concat(frames))) as Error).message).toMatch(message);
});
