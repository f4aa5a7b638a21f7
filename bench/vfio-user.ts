/** vfio-user's round trip: our client and server compared with minimal ones in C. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { Connection } from '../vfio/user/client/connection.js';
import { Writer } from '../vfio/user/message.js';
import { VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE } from '../vfio/user/protocol.js';
import { compileC, interleaveEach, microseconds, scratchFolder, serving } from './measure.js';
import { percentileText, type Report } from './report.js';

const ROUNDS = 7;
const READS = 20_000;
const POSTS = 100_000;
const CONFIG = 7;

const request = (count: number, data: Uint8Array = new Uint8Array(0)): Uint8Array =>
  new Writer(16 + data.length)
    .u64(data.length === 0 ? 0 : 0x0c)
    .u32(CONFIG)
    .u32(count)
    .data(data).bytes;

/** Nanoseconds of each read by our client. */
function readByUs(path: string): number[] {
  using connection = Connection.open(path, 5000);
  const once = () => void connection.ask(VFIO_USER_REGION_READ, request(4));
  for (let i = 0; i < 2000; i++) once();
  const samples = new Array<number>(READS);
  for (let i = 0; i < READS; i++) {
    const start = process.hrtime.bigint();
    once();
    samples[i] = Number(process.hrtime.bigint() - start);
  }
  return samples;
}

function postByUs(path: string): number {
  using connection = Connection.open(path, 5000);
  const payload = request(4, new Uint8Array(4));
  for (let i = 0; i < 2000; i++) connection.ask(VFIO_USER_REGION_READ, request(4));
  const start = process.hrtime.bigint();
  for (let i = 0; i < POSTS; i++) connection.post(VFIO_USER_REGION_WRITE, payload);
  connection.ask(VFIO_USER_REGION_READ, request(4));
  return Number(process.hrtime.bigint() - start) / POSTS;
}

export async function vfioUser(report: Report): Promise<void> {
  using folder = scratchFolder();
  const peer = compileC('vfio-user-peer', folder.path);
  const [inC, ours] = [join(folder.path, 'c.sock'), join(folder.path, 'ours.sock')];
  await using _c = await serving(peer, ['server', inC]);
  await using _ours = await serving(process.execPath, ['serve', 'mtty-1', '--socket', ours]);
  const byC = (what: string, path: string, count: number) => () =>
    execFileSync(peer, [what, path, `${count}`], { encoding: 'utf8' })
      .trim()
      .split('\n')
      .map(Number);
  const reads = await interleaveEach(ROUNDS, {
    'C client, C server': byC('read', inC, READS),
    'C client, our server': byC('read', ours, READS),
    'our client, C server': () => readByUs(inC),
    'our client, our server': () => readByUs(ours),
  });
  // A post has no end that its sender sees: many are timed together.
  const posts = await interleaveEach(ROUNDS, {
    'C client, C server': byC('post', inC, POSTS),
    'C client, our server': byC('post', ours, POSTS),
    'our client, C server': () => [postByUs(inC)],
  });
  for (const [what, result] of [
    ['REGION_READ, round trip', reads],
    ['posted REGION_WRITE', posts],
  ] as const) {
    const floor = result['C client, C server']?.p50 ?? Number.NaN;
    for (const [who, each] of Object.entries(result)) {
      const name = `${what}, ${who}`;
      const value = each.p50;
      const isEach = result === reads;
      const ratio = { to: `${what}, C client, C server`, value: value / floor };
      const times = isEach ? percentileText(each) : microseconds(value);
      report.line(`  ${name}: ${times} (${ratio.value.toFixed(2)} x C)`);
      report.add({ benchmark: 'vfio-user', name, unit: 'ns', value, ratio, ...(isEach && { each }) });
    }
  }
}
