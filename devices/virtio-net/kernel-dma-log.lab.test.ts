/** The log of pages with the real vhost-net: this process has the guest's memory, and the kernel's thread writes to it. */
import { execFileSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { deviceFeature } from '../../vfio/core/device-feature.js';
import { setDeviceState } from '../../vfio/core/migration.js';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
} from '../../vfio/feature.js';
import { vhost } from '../net/vhost.js';
import { maps } from './testing/guest.js';
import { Workbench } from './testing/workbench.js';

const TAP = 'logtap0';
const [HOST, GUEST] = ['10.9.3.1', '10.9.3.2'];
const MAC = '52:54:00:12:34:56';
const PAGE = 4096;
const BYTES = maps.main.bytes + maps.next.bytes;
const SIZE = 64;
/** Across the edge of two maps. */
const RX = maps.next.iova - 16 * PAGE;
const TX = maps.next.iova + 0x8_0000;
/** In front of a datagram: struct virtio_net_hdr_v1, Ethernet, IP and UDP. */
const HEADERS = 12 + 14 + 20 + 8;

class Card implements Disposable {
  readonly bench = new Workbench({ net: `vhost:${TAP}`, mac: MAC }, [vhost]);
  readonly #host = createSocket('udp4');

  constructor() {
    this.bench.driver.start({ queueSize: SIZE });
  }

  get used(): { readonly rx: number; readonly tx: number } {
    const { rx, tx } = this.bench.driver;
    return { rx: rx.used, tx: tx.used };
  }

  feature = (flags: number, input = {}) => deviceFeature(this.bench.instance.ops, flags, input);

  startLog(): void {
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET, {
      logging: {
        pageSize: BigInt(PAGE),
        ranges: [{ iova: iova(BigInt(maps.main.iova)), length: BigInt(BYTES) }],
      },
    });
  }

  stopLog(): void {
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET);
  }

  report(): number[] {
    const bitmap = new Uint8Array(BYTES / PAGE / 8);
    this.feature(VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET, {
      report: {
        iova: iova(BigInt(maps.main.iova)),
        length: BigInt(BYTES),
        pageSize: BigInt(PAGE),
        bitmap,
      },
    });
    return Array.from({ length: BYTES / PAGE }, (_, page) => page)
      .filter((page) => ((bitmap[page >> 3] as number) & (1 << (page & 7))) !== 0)
      .map((page) => maps.main.iova + page * PAGE);
  }

  /** All pages that are reported until `isDone`, and for a while after it, as a mark comes behind what it is of. */
  async reportUntil(isDone: () => boolean): Promise<number[]> {
    const pages = new Set<number>();
    for (let after = 0; after < 20; ) {
      await sleep(10);
      this.bench.thread.pump();
      for (const page of this.report()) pages.add(page);
      if (after > 0 || isDone()) after++;
    }
    return [...pages].sort((a, b) => a - b);
  }

  /** The host sends a datagram to the guest's address, by the TAP. */
  async deliver(bytes: number, seed = 1): Promise<void> {
    const data = new Uint8Array(bytes).fill(seed);
    await new Promise<void>((resolve, reject) =>
      this.#host.send(data, 9, GUEST, (error) => (error === null ? resolve() : reject(error))),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]();
    const closed = once(this.#host, 'close');
    this.#host.close();
    await closed;
  }

  [Symbol.dispose](): void {
    this.bench[Symbol.dispose]();
  }
}

const ip = (...words: string[]) => execFileSync('ip', words, { stdio: 'pipe' });

describe('vhost-net', () => {
  beforeAll(() => {
    execFileSync('modprobe', ['-a', 'tun', 'vhost_net']);
    ip('tuntap', 'add', TAP, 'mode', 'tap');
    // So that nothing but this test's datagrams comes by it.
    if (existsSync('/proc/sys/net/ipv6')) writeFileSync(`/proc/sys/net/ipv6/conf/${TAP}/disable_ipv6`, '1');
    ip('address', 'add', `${HOST}/24`, 'dev', TAP);
    ip('link', 'set', TAP, 'up');
    ip('neighbour', 'add', GUEST, 'lladdr', MAC, 'dev', TAP, 'nud', 'permanent');
  });
  afterAll(() => void ip('link', 'delete', TAP));

  test('marks the pages that it writes: of the buffer those that the packet fills, and of the used rings', async () => {
    await using card = new Card();
    const { driver } = card.bench;
    expect(card.bench.instance.counters().vhostQueues).toBe(2);
    card.startLog();
    expect(await card.reportUntil(() => true)).toEqual([]);
    driver.provide(RX + PAGE - 100, 4 * PAGE);
    driver.ring(0);
    await card.deliver(1000, 7);
    let length = 0;
    const received = () => {
      length += driver.rx.reap()[0]?.length ?? 0;
      return length > 0;
    };
    expect(await card.reportUntil(received)).toEqual([card.used.rx, RX, RX + PAGE]);
    expect(length).toBe(HEADERS + 1000);
    driver.send(new Uint8Array(60), TX);
    driver.ring(1);
    expect(await card.reportUntil(() => driver.tx.reap().length > 0)).toEqual([card.used.tx]);
    card.stopLog();
    driver.provide(RX, PAGE);
    driver.ring(0);
    await card.deliver(100);
    length = 0;
    while (!received()) await sleep(10);
    // It marks no more: what it marked would be in no log, or would have ended this process.
    card.startLog();
    expect(await card.reportUntil(() => true)).toEqual([]);
  });

  test('loses no mark while reports are made, the log begins and ends, and the queues stop and go on', async () => {
    await using card = new Card();
    const { driver, memory } = card.bench;
    const copyOf = (page: number) => memory.bytes.slice(memory.at(page), memory.at(page) + PAGE);
    const buffers = Array.from({ length: SIZE }, (_, i) => RX + i * PAGE);
    const pages = [card.used.rx, card.used.tx, ...buffers];
    const copy = new Map<number, Uint8Array>();
    const begin = () => {
      card.startLog();
      for (const page of pages) copy.set(page, copyOf(page));
    };
    let [reported, received, offered, stale] = [0, 0, 0, 0];
    const update = () => {
      for (const page of card.report()) {
        copy.set(page, copyOf(page));
        reported++;
      }
    };
    begin();
    for (let round = 0; received < 3000; round++) {
      received += driver.rx.reap().length;
      for (; offered < received + SIZE - 1; offered++)
        driver.provide(buffers[offered % SIZE] as number, PAGE);
      driver.ring(0);
      driver.send(new Uint8Array(60).fill(round), TX);
      driver.ring(1);
      for (let i = 0; i < 24; i++) await card.deliver(200 + 50 * (i % 20), round);
      card.bench.thread.pump();
      update();
      if (round % 7 === 0) {
        card.stopLog();
        begin();
      }
      if (round % 5 !== 0) continue;
      stale += pages.filter((page) => Buffer.compare(copy.get(page)!, copyOf(page)) !== 0).length;
      setDeviceState(card.bench.instance.ops, VFIO_DEVICE_STATE_STOP);
      update();
      const lost = pages.filter((page) => Buffer.compare(copy.get(page)!, copyOf(page)) !== 0);
      expect(lost, `round ${round}`).toEqual([]);
      setDeviceState(card.bench.instance.ops, VFIO_DEVICE_STATE_RUNNING);
    }
    console.log(`${received} packets, ${reported} pages reported, ${stale} behind before a stop`);
    expect(reported).toBeGreaterThan(SIZE);
    expect(card.bench.instance.counters()).toMatchObject({ rxPackets: 0, txPackets: 0 });
  });
});
