/** Rules of VFIO_USER_DEVICE_FEATURE: the log of DMA writes. */
import {
  VFIO_DEVICE_FEATURE_GET as GET,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
} from '../../feature.js';
import { Writer } from '../message.js';
import { VFIO_USER_DEVICE_FEATURE as command, VFIO_USER_DMA_MAP } from '../protocol.js';
import { dmaMap, feature } from './payloads.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import { type Play, REFUSED, refused, type ServerRule } from './server-rule.js';
import { type Heard, isSuccess, wordAt } from './wire.js';

const PAGE = 4096;
const IOVA = 0x10_0000_0000;
/** Pages of a range that fills no word of a bitmap. */
const PAGES = 3;

const start = ({ wire }: Play): Promise<Heard> =>
  wire.ask(
    command,
    feature(
      SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
      40,
      new Writer(32)
        .u64(PAGE)
        .u32(1)
        .u32(0)
        .u64(IOVA)
        .u64(PAGES * PAGE).bytes,
    ),
  );
const report = ({ wire }: Play, pageSize = PAGE): Promise<Heard> =>
  wire.ask(
    command,
    feature(
      GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
      40,
      new Writer(24)
        .u64(IOVA)
        .u64(PAGES * PAGE)
        .u64(pageSize).bytes,
    ),
  );
const stop = ({ wire }: Play): Promise<Heard> =>
  wire.ask(command, feature(SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, 8));

/** A rule about a device that logs its DMA, with memory mapped. */
const logs = (
  row: Omit<ServerRule, 'play' | 'section'>,
  play: (play: Play) => Promise<Outcome>,
): ServerRule => ({
  section: 'VFIO_USER_DEVICE_FEATURE',
  ...row,
  async play(on) {
    if (!on.facts.hasLogging) return inapplicable('the device does not log its DMA');
    const mapped = await on.wire.ask(VFIO_USER_DMA_MAP, dmaMap(IOVA, PAGES * PAGE));
    if (!isSuccess(mapped)) return failed(`to a map: ${on.describe(mapped)}`);
    return play(on);
  },
});

export const LOGGING_RULES: readonly ServerRule[] = [
  logs(
    {
      name: 'dma-logging',
      sent: `DMA_LOGGING_START of ${PAGES} pages, DMA_LOGGING_REPORT of them, DMA_LOGGING_STOP`,
      expected: 'replies to all; the report has a bitmap of 8 bytes at offset 24 of its data',
    },
    async (play) => {
      const started = await start(play);
      if (!isSuccess(started)) return failed(`to START: ${play.describe(started)}`);
      const reported = await report(play);
      if (!isSuccess(reported)) return failed(`to REPORT: ${play.describe(reported)}`);
      if (reported.reply.payload.length !== 40)
        return failed(`a report of ${reported.reply.payload.length} bytes`);
      const stopped = await stop(play);
      return isSuccess(stopped) ? passed('replies to all') : failed(`to STOP: ${play.describe(stopped)}`);
    },
  ),
  logs(
    {
      name: 'dma-logging-bits-outside',
      sent: `DMA_LOGGING_REPORT of ${PAGES} pages`,
      expected: 'zero for all bits of the bitmap outside of the range',
    },
    async (play) => {
      await start(play);
      const heard = await report(play);
      const [low, high] = [wordAt(heard, 32), wordAt(heard, 36)];
      if (low === undefined || high === undefined) return failed(play.describe(heard));
      return (low >>> PAGES === 0 && high === 0 ? passed : failed)(
        `0x${high.toString(16).padStart(8, '0')}${low.toString(16).padStart(8, '0')}`,
      );
    },
  ),
  logs(
    {
      name: 'dma-logging-all',
      sent: 'DMA_LOGGING_START with num_ranges 0, which is all of them',
      expected: 'a reply with the data of the request',
    },
    async (play) => {
      const data = new Writer(16).u64(PAGE).u32(0).u32(0).bytes;
      const heard = await play.wire.ask(
        command,
        feature(SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, 24, data),
      );
      if (!isSuccess(heard)) return failed(play.describe(heard));
      return (heard.reply.payload.length === 24 ? passed : failed)(play.describe(heard));
    },
  ),
  logs(
    { name: 'dma-logging-report-before-start', sent: 'DMA_LOGGING_REPORT before START', expected: REFUSED },
    async (play) => refused(play, await report(play)),
  ),
  logs(
    { name: 'dma-logging-report-after-stop', sent: 'DMA_LOGGING_REPORT after STOP', expected: REFUSED },
    async (play) => {
      await start(play);
      await stop(play);
      return refused(play, await report(play));
    },
  ),
  logs(
    {
      name: 'dma-logging-page-size',
      sent: 'DMA_LOGGING_REPORT by a page size of 4097, which is no power of two',
      expected: REFUSED,
    },
    async (play) => {
      await start(play);
      return refused(play, await report(play, PAGE + 1));
    },
  ),
];
