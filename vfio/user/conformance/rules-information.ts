/** Rules of the questions about the device, its regions and interrupts: argsz, indexes, capabilities, descriptors. */
import { fstatSync } from 'node:fs';
import { mappableAreas } from '../../region-layout.js';
import { VFIO_DEVICE_FLAGS_PCI, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP } from '../../uapi.js';
import { decodeDeviceInfo, decodeIoFds, decodeIrqInfo, decodeRegionInfo } from '../message.js';
import {
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_GET_REGION_IO_FDS,
} from '../protocol.js';
import { question, regionQuestion, words } from './payloads.js';
import { failed, inapplicable, passed } from './report.js';
import { decoded } from './server-facts.js';
import { answers, type Play, refuses, type ServerRule } from './server-rule.js';
import { isError, isSuccess, type Reply } from './wire.js';

const INFO_BYTES = 16;
const REGION_BYTES = 32;
const LARGER = 256;
const FAR = 0xffff_ffff;
const KNOWN_REGION_FLAGS = 0xf;
const KNOWN_IRQ_FLAGS = 0xf;
/** The largest reply that is asked for. */
const MOST_BYTES = 64 * 1024;

const GET_INFO = VFIO_USER_DEVICE_GET_INFO;
const REGION = VFIO_USER_DEVICE_GET_REGION_INFO;
const IRQ = VFIO_USER_DEVICE_GET_IRQ_INFO;
const IO_FDS = VFIO_USER_DEVICE_GET_REGION_IO_FDS;

const argszOf = ({ payload }: Reply): number =>
  new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getUint32(0, true);

const isExactly =
  (bytes: number) =>
  (reply: Reply): string | undefined => {
    if (reply.payload.length !== bytes) return `a payload of ${reply.payload.length} bytes`;
    return argszOf(reply) === bytes ? undefined : `argsz ${argszOf(reply)}`;
  };

const DEVICE = 'VFIO_USER_DEVICE_GET_INFO';
const DEVICE_RULES: readonly ServerRule[] = [
  answers({
    name: 'device-info',
    section: DEVICE,
    sent: 'argsz 16',
    expected: 'a payload of 16 bytes, argsz 16, of a PCI device with its regions',
    ask: { command: GET_INFO, payload: question(INFO_BYTES) },
    check: (reply) => {
      const { flags, numRegions } = decodeDeviceInfo(GET_INFO, reply.payload);
      if ((flags & VFIO_DEVICE_FLAGS_PCI) !== 0 && numRegions < 9)
        return `${numRegions} regions of a PCI device`;
      return (flags & VFIO_DEVICE_FLAGS_PCI) === 0 ? 'no PCI device' : isExactly(INFO_BYTES)(reply);
    },
  }),
  answers({
    name: 'device-info-argsz-larger',
    section: 'Message sizes',
    sent: `VFIO_USER_DEVICE_GET_INFO with argsz ${LARGER}`,
    expected: 'a payload of 16 bytes, argsz 16',
    ask: { command: GET_INFO, payload: question(LARGER) },
    check: isExactly(INFO_BYTES),
  }),
  refuses({
    name: 'device-info-argsz-too-small',
    section: 'Message sizes',
    sent: 'VFIO_USER_DEVICE_GET_INFO with argsz 8',
    ask: { command: GET_INFO, payload: question(8) },
  }),
  refuses({
    name: 'device-info-too-short',
    section: DEVICE,
    sent: 'a payload of 2 bytes',
    ask: { command: GET_INFO, payload: question(INFO_BYTES).subarray(0, 2) },
  }),
  refuses({
    name: 'device-info-without-payload',
    section: DEVICE,
    sent: 'no payload',
    ask: { command: GET_INFO },
  }),
];

const REGIONS = 'VFIO_USER_DEVICE_GET_REGION_INFO';

/** Asks for a region with the argsz that the first reply names. */
async function wholeRegion({ wire }: Play, index: number): Promise<Reply | undefined> {
  const first = await wire.ask(REGION, regionQuestion(REGION_BYTES, index));
  const argsz = decoded(first, argszOf);
  if (argsz === undefined) return undefined;
  const heard = await wire.ask(
    REGION,
    regionQuestion(Math.min(Math.max(argsz, REGION_BYTES), MOST_BYTES), index),
  );
  return isSuccess(heard) ? heard.reply : undefined;
}

/** Checks a whole reply for each region that `isMeant`. */
const eachRegion = (
  name: string,
  sent: string,
  expected: string,
  none: string,
  isMeant: (flags: number) => boolean,
  check: (reply: Reply, region: ReturnType<typeof decodeRegionInfo>) => string | undefined,
): ServerRule => ({
  name,
  section: REGIONS,
  sent,
  expected,
  async play(play) {
    let count = 0;
    for (const { index, flags } of play.facts.regions) {
      if (!isMeant(flags)) continue;
      count++;
      const reply = await wholeRegion(play, index);
      if (reply === undefined) return failed(`region ${index}: no reply`);
      try {
        const problem = check(reply, decodeRegionInfo(REGION, reply.payload));
        if (problem !== undefined) return failed(`region ${index}: ${problem}`);
      } catch (error) {
        return failed(`region ${index}: ${(error as Error).message.split('\n').at(-1)?.trim()}`);
      }
    }
    return count === 0 ? inapplicable(none) : passed(`so of ${count} regions`);
  },
});

/** @throws RangeError outside of the reply */
const flagsOf = ({ payload }: Reply): number =>
  new DataView(payload.buffer, payload.byteOffset, payload.byteLength).getUint32(4, true);

const isMmap = (flags: number): boolean => (flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0;

const REGION_RULES: readonly ServerRule[] = [
  {
    name: 'region-info-each',
    section: REGIONS,
    sent: 'each index below num_regions, argsz 32',
    expected: 'replies with this index and known flags; a payload of 32 bytes',
    async play(play) {
      const count = Math.min(play.facts.numRegions, 32);
      for (let index = 0; index < count; index++) {
        const heard = await play.wire.ask(REGION, regionQuestion(REGION_BYTES, index));
        if (!isSuccess(heard)) return failed(`region ${index}: ${play.describe(heard)}`);
        const region = decoded(heard, ({ payload }) => decodeRegionInfo(REGION, payload));
        if (region === undefined || heard.reply.payload.length !== REGION_BYTES)
          return failed(`region ${index}: a payload of ${heard.reply.payload.length} bytes`);
        if (region.index !== index) return failed(`index ${region.index} in the reply about ${index}`);
        if ((region.flags & ~KNOWN_REGION_FLAGS) !== 0)
          return failed(`region ${index}: flags 0x${region.flags.toString(16)}`);
      }
      return passed(`so of ${count} regions`);
    },
  },
  refuses({
    name: 'region-info-argsz-too-small',
    section: 'Message sizes',
    sent: 'VFIO_USER_DEVICE_GET_REGION_INFO with argsz 16',
    ask: { command: REGION, payload: regionQuestion(16, 0) },
  }),
  refuses({
    name: 'region-info-too-short',
    section: REGIONS,
    sent: 'a payload of 8 bytes',
    ask: { command: REGION, payload: words(REGION_BYTES, 0) },
  }),
  refuses({
    name: 'region-info-index-outside',
    section: REGIONS,
    sent: 'the index num_regions',
    ask: ({ numRegions }) => ({ command: REGION, payload: regionQuestion(REGION_BYTES, numRegions) }),
  }),
  refuses({
    name: 'region-info-index-far-outside',
    section: REGIONS,
    sent: `the index 0x${FAR.toString(16)}`,
    ask: { command: REGION, payload: regionQuestion(REGION_BYTES, FAR) },
  }),
  eachRegion(
    'region-info-argsz',
    'each region with bytes, with the argsz that its first reply names',
    'a payload of argsz bytes',
    'no region has bytes',
    () => true,
    (reply) =>
      reply.payload.length === argszOf(reply)
        ? undefined
        : `argsz ${argszOf(reply)}, and a payload of ${reply.payload.length} bytes`,
  ),
  {
    name: 'region-info-argsz-without-capabilities',
    section: 'Message sizes',
    sent: 'VFIO_USER_DEVICE_GET_REGION_INFO of each region that has capabilities, with argsz 32',
    expected: 'argsz of the whole reply, and a payload of 32 bytes without capabilities',
    async play(play) {
      let count = 0;
      for (const { index } of play.facts.regions) {
        const whole = await wholeRegion(play, index);
        if (whole === undefined || (flagsOf(whole) & VFIO_REGION_INFO_FLAG_CAPS) === 0) continue;
        count++;
        const heard = await play.wire.ask(REGION, regionQuestion(REGION_BYTES, index));
        if (!isSuccess(heard)) return failed(`region ${index}: ${play.describe(heard)}`);
        const { payload } = heard.reply;
        if (payload.length !== REGION_BYTES) return failed(`region ${index}: ${payload.length} bytes`);
        if (argszOf(heard.reply) <= REGION_BYTES)
          return failed(`region ${index}: argsz ${argszOf(heard.reply)}`);
      }
      return count === 0 ? inapplicable('no region has capabilities') : passed(`so of ${count} regions`);
    },
  },
  eachRegion(
    'region-info-capabilities',
    'each region with bytes, with room for its capabilities',
    'a chain of capabilities inside of the reply, areas inside of the region',
    'no region has bytes',
    () => true,
    (reply, { capabilities }) =>
      (flagsOf(reply) & VFIO_REGION_INFO_FLAG_CAPS) !== 0 && reply.payload.length <= REGION_BYTES
        ? 'VFIO_REGION_INFO_FLAG_CAPS without capabilities'
        : capabilities.some((each) => 'areas' in each && each.areas.some(({ size }) => size === 0))
          ? 'an area without bytes'
          : undefined,
  ),
  eachRegion(
    'region-info-mmap-descriptor',
    'each region with VFIO_REGION_INFO_FLAG_MMAP',
    'a reply with a descriptor, whose file has all that can be mapped',
    'no region can be mapped',
    isMmap,
    ({ fds }, { index, flags, size, fdOffset, capabilities }) => {
      const [fd] = fds;
      if (fd === undefined) return 'no descriptor';
      const stat = fstatSync(fd.number);
      const info = { index, flags, size, offset: 0, capabilities };
      const end = Math.max(0, ...mappableAreas(info).map((area) => area.offset + area.size));
      return stat.isFile() && stat.size < fdOffset + end
        ? `a file of ${stat.size} bytes for ${end} at ${fdOffset}`
        : undefined;
    },
  ),
  eachRegion(
    'region-info-no-descriptor',
    'each region without VFIO_REGION_INFO_FLAG_MMAP',
    'a reply without descriptors',
    'all regions can be mapped',
    (flags) => !isMmap(flags),
    ({ fds }) => (fds.length === 0 ? undefined : `${fds.length} descriptors`),
  ),
];

const IO_FD = 'VFIO_USER_DEVICE_GET_REGION_IO_FDS';

const IO_FD_RULES: readonly ServerRule[] = [
  {
    name: 'io-fds-each',
    section: IO_FD,
    sent: 'each region with bytes, with argsz 16, then with the argsz of the reply',
    expected: 'as many sub-regions as counted, inside of the region, with descriptors that are there',
    async play(play) {
      let count = 0;
      for (const { index, size } of play.facts.regions) {
        const first = await play.wire.ask(IO_FDS, question(16, index));
        // Optional as a whole.
        if (isError(first) && count === 0) continue;
        if (!isSuccess(first)) return failed(`region ${index}: ${play.describe(first)}`);
        const wanted = decoded(first, ({ payload }) => decodeIoFds(IO_FDS, payload));
        if (wanted === undefined) return failed(`region ${index}: ${first.reply.payload.length} bytes`);
        if (wanted.count === 0) continue;
        count += wanted.count;
        const second = await play.wire.ask(IO_FDS, question(Math.min(wanted.argsz, MOST_BYTES), index));
        const whole = decoded(second, ({ payload }) => decodeIoFds(IO_FDS, payload));
        if (!isSuccess(second) || whole === undefined)
          return failed(`region ${index}: ${play.describe(second)}`);
        if (whole.ioFds.length !== wanted.count)
          return failed(`region ${index}: ${whole.ioFds.length} of ${wanted.count} sub-regions`);
        const { fds } = second.reply;
        for (const { offset, size: bytes, fdIndex } of whole.ioFds) {
          if (fdIndex >= fds.length)
            return failed(`region ${index}: fd_index ${fdIndex} of ${fds.length} descriptors`);
          if (offset + bytes > size) return failed(`region ${index}: a sub-region ends at ${offset + bytes}`);
        }
      }
      return count === 0 ? inapplicable('no region has sub-regions') : passed(`${count} sub-regions`);
    },
  },
  refuses({
    name: 'io-fds-argsz-too-small',
    section: 'Message sizes',
    sent: 'VFIO_USER_DEVICE_GET_REGION_IO_FDS with argsz 8',
    ask: { command: IO_FDS, payload: question(8) },
  }),
  refuses({
    name: 'io-fds-index-outside',
    section: IO_FD,
    sent: 'the index num_regions',
    ask: ({ numRegions }) => ({ command: IO_FDS, payload: question(LARGER, numRegions) }),
  }),
  refuses({
    name: 'io-fds-flags',
    section: IO_FD,
    sent: 'flags 1, where all other fields must be zero',
    ask: ({ regions }) => ({ command: IO_FDS, payload: question(LARGER, regions[0]?.index ?? 0, 1) }),
  }),
  refuses({
    name: 'io-fds-count',
    section: IO_FD,
    sent: 'count 1, where all other fields must be zero',
    ask: ({ regions }) => ({ command: IO_FDS, payload: question(LARGER, regions[0]?.index ?? 0, 0, 1) }),
  }),
];

const IRQS = 'VFIO_USER_DEVICE_GET_IRQ_INFO';

const IRQ_INFO_RULES: readonly ServerRule[] = [
  {
    name: 'irq-info-each',
    section: IRQS,
    sent: 'each index below num_irqs, argsz 16',
    expected: 'replies of 16 bytes with this index, argsz 16 and known flags',
    async play(play) {
      const count = Math.min(play.facts.numIrqs, 8);
      if (count === 0) return inapplicable('the device has no interrupts');
      let known = 0;
      for (let index = 0; index < count; index++) {
        const heard = await play.wire.ask(IRQ, question(INFO_BYTES, index));
        // A conventional PCI device has no error interrupt, and the kernel refuses the question.
        if (isError(heard)) continue;
        if (!isSuccess(heard)) return failed(`index ${index}: ${play.describe(heard)}`);
        const irq = decoded(heard, ({ payload }) => decodeIrqInfo(IRQ, payload));
        if (irq === undefined) return failed(`index ${index}: ${heard.reply.payload.length} bytes`);
        if (irq.index !== index) return failed(`index ${irq.index} in the reply about ${index}`);
        const problem = isExactly(INFO_BYTES)(heard.reply);
        if (problem !== undefined) return failed(`index ${index}: ${problem}`);
        if ((irq.flags & ~KNOWN_IRQ_FLAGS) !== 0) return failed(`index ${index}: flags ${irq.flags}`);
        known++;
      }
      return known === 0 ? failed('only errors') : passed(`so of ${known} indexes`);
    },
  },
  answers({
    name: 'irq-info-argsz-larger',
    section: 'Message sizes',
    sent: `VFIO_USER_DEVICE_GET_IRQ_INFO with argsz ${LARGER}`,
    expected: 'a payload of 16 bytes, argsz 16',
    ask: ({ numIrqs }) =>
      numIrqs === 0 ? 'the device has no interrupts' : { command: IRQ, payload: question(LARGER) },
    check: isExactly(INFO_BYTES),
  }),
  refuses({
    name: 'irq-info-argsz-too-small',
    section: 'Message sizes',
    sent: 'VFIO_USER_DEVICE_GET_IRQ_INFO with argsz 8',
    ask: { command: IRQ, payload: question(8) },
  }),
  refuses({
    name: 'irq-info-too-short',
    section: IRQS,
    sent: 'a payload of 8 bytes',
    ask: { command: IRQ, payload: words(INFO_BYTES, 0) },
  }),
  refuses({
    name: 'irq-info-index-outside',
    section: IRQS,
    sent: 'the index num_irqs',
    ask: ({ numIrqs }) => ({ command: IRQ, payload: question(INFO_BYTES, numIrqs) }),
  }),
  refuses({
    name: 'irq-info-index-far-outside',
    section: IRQS,
    sent: `the index 0x${FAR.toString(16)}`,
    ask: { command: IRQ, payload: question(INFO_BYTES, FAR) },
  }),
];

export const INFORMATION_RULES: readonly ServerRule[] = [
  ...DEVICE_RULES,
  ...REGION_RULES,
  ...IO_FD_RULES,
  ...IRQ_INFO_RULES,
];
