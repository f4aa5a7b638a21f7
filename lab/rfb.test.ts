import { Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { diceOf } from '../sys/testing/random.js';
import { RfbClient } from './rfb.js';

const [WIDTH, HEIGHT] = [6, 4];
const SEED = Number(process.env.TSVISOR_SEED ?? Date.now() % 1_000_000);

/** A server that sends a script and ends; notes what the client sent. */
function serverOf(script: Uint8Array, most = script.length) {
  const sent: Buffer[] = [];
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < script.length; at += most) chunks.push(script.subarray(at, at + most));
  const stream = new Duplex({
    read() {
      this.push(chunks.shift() ?? null);
    },
    write(bytes: Buffer, _encoding, done) {
      sent.push(bytes);
      done();
    },
  });
  return { stream, sent: () => Buffer.concat(sent) };
}

const u16 = (value: number) => [value >> 8, value & 255];
const u32 = (value: number) => [value >>> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255];
const text = (value: string) => [...Buffer.from(value)];
const handshake = (width = WIDTH, height = HEIGHT, name = 'guest', nameBytes = name.length) => [
  ...text('RFB 003.008\n'),
  ...[2, 2, 1],
  ...u32(0),
  ...[...u16(width), ...u16(height), ...Array(16).fill(0), ...u32(nameBytes), ...text(name)],
];
const rectangle = (x: number, y: number, w: number, h: number, fill: number, encoding = 0) => [
  ...[x, y, w, h].flatMap(u16),
  ...u32(encoding),
  ...Array(4 * w * h).fill(fill),
];
const update = (...rectangles: number[][]) => [0, 0, ...u16(rectangles.length), ...rectangles.flat()];

/** Follows a script to its end: the last picture, the number of updates, and the error that ended it. */
async function followed(script: readonly number[], most?: number) {
  const server = serverOf(Uint8Array.from(script), most);
  let [updates, picture] = [0, Buffer.alloc(0)];
  const error = await RfbClient.connect(server.stream)
    .then((client) =>
      client.follow((pixels) => {
        updates++;
        picture = Buffer.from(pixels);
      }),
    )
    .catch((cause: Error) => cause);
  return { updates, picture, sent: server.sent(), error: error as Error };
}

test('rectangles lie where the server says, and a bell, a palette and a clipboard between them change nothing', async () => {
  const script = [
    ...handshake(),
    ...update(rectangle(0, 0, WIDTH, HEIGHT, 1)),
    ...[2, 1, 0, ...u16(0), ...u16(2), ...Array(12).fill(9), 3, 0, 0, 0, ...u32(3), ...text('abc')],
    ...update(rectangle(1, 2, 2, 1, 7), rectangle(5, 3, 1, 1, 8)),
  ];
  const expected = Buffer.alloc(4 * WIDTH * HEIGHT, 1);
  expected.fill(7, 4 * (2 * WIDTH + 1), 4 * (2 * WIDTH + 3));
  expected.fill(8, 4 * (3 * WIDTH + 5));
  for (const most of [1, 7, script.length]) {
    const { updates, picture, error } = await followed(script, most);
    expect(error.message).toMatch(/closed/);
    expect(updates).toBe(2);
    expect(picture).toEqual(expected);
  }
});

test('the client asks for the whole picture once, and then for changes after each update', async () => {
  const one = rectangle(0, 0, 1, 1, 3);
  const { sent } = await followed([...handshake(), ...update(one), ...update(one)]);
  const requests = sent.subarray(-30);
  expect([0, 10, 20].map((at) => [...requests.subarray(at, at + 2)])).toEqual([
    [3, 0],
    [3, 1],
    [3, 1],
  ]);
  expect([...requests.subarray(6, 10)]).toEqual([0, WIDTH, 0, HEIGHT]);
});

test.each([
  ['another version', text('RFB 003.003\n'), /3\.8/],
  ['a password', [...text('RFB 003.008\n'), 1, 2], /without password/],
  ['a refusal', [...text('RFB 003.008\n'), 1, 1, ...u32(1)], /refuses/],
  ['a picture without pixels', handshake(0, 4), /0 x 4/],
  ['a picture that is too large', handshake(60_000, 60_000), /60000 x 60000/],
  ['a name that is too long', handshake(6, 4, '', 0xffff_ffff), /4294967295 bytes/],
  ['pixels outside', [...handshake(), ...update(rectangle(5, 0, 2, 1, 0))], /2 x 1 pixels at 5, 0/],
  ['another encoding', [...handshake(), ...update(rectangle(0, 0, 1, 1, 0, 5))], /encoding/],
  ['an unknown message', [...handshake(), 77], /unknown message, 77/],
  ['a clipboard that is too long', [...handshake(), 3, 0, 0, 0, ...u32(0xffff_ffff)], /clipboard/],
])('%s is refused with its cause', async (_what, script, cause) => {
  expect((await followed(script)).error.message).toMatch(cause);
});

test(`damaged input ends with an error, and a picture keeps its size (seed ${SEED})`, async () => {
  const dice = diceOf(SEED);
  const sane = [
    ...handshake(),
    ...update(rectangle(0, 0, WIDTH, HEIGHT, 1)),
    ...update(rectangle(2, 1, 3, 2, 5)),
  ];
  for (let round = 0; round < 500; round++) {
    const script = [...sane];
    for (let i = dice(4); i >= 0; i--) script[dice(script.length)] = dice(256);
    const { error, picture, updates } = await followed(
      script.slice(0, dice(script.length) + 1),
      1 + dice(64),
    );
    expect(error).toBeInstanceOf(Error);
    expect(error.message).toMatch(/VNC server|RFB|pixels|message|clipboard|connection/);
    if (updates > 0) expect(picture.length % 4).toBe(0);
  }
});
