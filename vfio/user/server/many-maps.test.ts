/** Many maps: what releases them all takes time in proportion to them. */
import { ftruncateSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Fd } from '../../../sys/fd.js';
import { encodeCommand, Writer } from '../message.js';
import { VFIO_USER_DMA_MAP, VFIO_USER_DMA_UNMAP } from '../protocol.js';
import { RawClient } from '../testing/raw-client.js';

/** `TSVISOR_MAPS=65000` is the whole number: a minute, as each map is a message of its own. */
const MAPS = Number(process.env.TSVISOR_MAPS ?? 15_000);
/** Milliseconds; an idle machine takes less than a tenth of it. */
const BOUND = 1000 + MAPS / 20;
const PAGE = 4096n;

function mapAll(client: RawClient, fd: Fd): void {
  for (let i = 0; i < MAPS; i++) {
    const at = BigInt(i) * PAGE;
    const payload = new Writer(32)
      .u32(32)
      .u32(3)
      .u64(at)
      .u64(2n * at)
      .u64(PAGE).bytes;
    client.send(encodeCommand(i & 0xffff, VFIO_USER_DMA_MAP, payload), [fd.number]);
    client.settle();
    expect(client.receive()?.errno).toBe(0);
  }
}

const taking = (body: () => void): number => {
  const start = performance.now();
  body();
  return performance.now() - start;
};

test(`${MAPS} maps are unmapped at once, and by the client’s end, within a bound`, () => {
  using file = Fd.memfd('many');
  ftruncateSync(file.number, MAPS * Number(PAGE));
  const client = new RawClient(true);
  client.negotiate();
  const times: number[] = [];
  times.push(taking(() => mapAll(client, file)));
  const all = new Writer(24).u32(24).u32(2).u64(0n).u64(0n).bytes;
  times.push(taking(() => expect(client.ask(VFIO_USER_DMA_UNMAP, all).errno).toBe(0)));
  times.push(taking(() => mapAll(client, file)));
  times.push(taking(() => client.session[Symbol.dispose]()));
  client[Symbol.dispose]();
  console.log(`map, unmap all, map, end: ${times.map(Math.round).join(', ')} ms`);
  expect(Math.max(times[1] as number, times[3] as number)).toBeLessThan(BOUND);
}, 300_000);
