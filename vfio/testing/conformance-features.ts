/** Rules of VFIO_DEVICE_FEATURE: for every device, and for those with migration or dirty page logging. */
import assert from 'node:assert/strict';
import { iova } from '../../sys/address.js';
import { isErrno } from '../../sys/error.js';
import {
  type MigrationData,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../feature.js';
import type { DeviceFile } from '../uapi.js';
import { fails, PAGE, type Rule } from './conformance-bench.js';

const [GET, SET, PROBE] = [VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET, VFIO_DEVICE_FEATURE_PROBE];
const FEATURES = [
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
];

export const featureRules: readonly Rule[] = [
  [
    'unknown flags of a feature are EINVAL, and so is GET with SET, but for a probe',
    (bench) => {
      const file = bench.file();
      const feature = VFIO_DEVICE_FEATURE_MIGRATION;
      fails('EINVAL', 'flags', () => file.deviceFeature((1 << 20) | GET | feature));
      fails('EINVAL', 'GET with SET', () => file.deviceFeature(GET | SET | feature));
      if (!has(file, feature)) return;
      fails('EINVAL', 'neither', () => file.deviceFeature(feature));
      fails('EINVAL', 'SET', () => file.deviceFeature(SET | feature));
      fails('EINVAL', 'probe of SET', () => file.deviceFeature(PROBE | SET | feature));
      assert.deepEqual(file.deviceFeature(PROBE | GET | SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE), {});
    },
  ],
  [
    'a feature that the device does not have is ENOTTY, however it is asked for',
    (bench) => {
      const file = bench.file();
      const absent = [0xffff, ...FEATURES.filter((feature) => !has(file, feature))];
      for (const feature of absent)
        for (const action of [PROBE, PROBE | GET, GET, SET, 0])
          fails('ENOTTY', `feature ${feature}, action 0x${action.toString(16)}`, () =>
            file.deviceFeature(action | feature),
          );
    },
  ],
  [
    'a device that can be moved saves a state, and takes it back',
    (bench) => {
      const file = bench.file();
      if (!has(file, VFIO_DEVICE_FEATURE_MIGRATION)) return;
      const { migrationFlags = 0 } = file.deviceFeature(GET | VFIO_DEVICE_FEATURE_MIGRATION);
      assert.notEqual(migrationFlags & VFIO_MIGRATION_STOP_COPY, 0);
      assert.equal(stateOf(file), VFIO_DEVICE_STATE_RUNNING);
      fails('EINVAL', 'no such state', () => setState(file, 99));
      assert.equal(stateOf(file), VFIO_DEVICE_STATE_RUNNING);
      const out = setState(file, VFIO_DEVICE_STATE_STOP_COPY);
      assert.ok(out !== undefined, 'STOP_COPY opens no data');
      assert.equal(stateOf(file), VFIO_DEVICE_STATE_STOP_COPY);
      const saved = readToEnd(out);
      out[Symbol.dispose]();
      fails('EBADF', 'read after dispose', () => out.read(new Uint8Array(1)));
      assert.equal(setState(file, VFIO_DEVICE_STATE_STOP), undefined);
      const into = setState(file, VFIO_DEVICE_STATE_RESUMING);
      assert.ok(into !== undefined, 'RESUMING opens no data');
      into.write(saved);
      into[Symbol.dispose]();
      assert.equal(setState(file, VFIO_DEVICE_STATE_STOP), undefined);
      assert.equal(setState(file, VFIO_DEVICE_STATE_RUNNING), undefined);
      assert.equal(stateOf(file), VFIO_DEVICE_STATE_RUNNING);
    },
  ],
  [
    'dirty logging starts with a range, reports into a bitmap that is long enough, and stops',
    (bench) => {
      const file = bench.file();
      if (!has(file, VFIO_DEVICE_FEATURE_DMA_LOGGING_START)) return;
      const range = { iova: iova(0x10_0000n), length: 16n * PAGE };
      const start = SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
      const report = GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
      const bitmap = new Uint8Array(8);
      fails('EINVAL', 'no ranges', () =>
        file.deviceFeature(start, { logging: { pageSize: PAGE, ranges: [] } }),
      );
      const { pageSize } = file.deviceFeature(start, { logging: { pageSize: PAGE, ranges: [range] } });
      assert.ok(pageSize !== undefined && pageSize > 0n);
      for (const bad of [2048n, 5000n])
        fails('EINVAL', `pages of ${bad}`, () =>
          file.deviceFeature(report, { report: { ...range, pageSize: bad, bitmap } }),
        );
      fails('EINVAL', 'a short bitmap', () =>
        file.deviceFeature(report, { report: { ...range, pageSize: PAGE, bitmap: bitmap.subarray(0, 1) } }),
      );
      bitmap[7] = 0x80;
      try {
        file.deviceFeature(report, { report: { ...range, pageSize: PAGE, bitmap } });
        assert.notEqual((bitmap[7] as number) & 0x80, 0, 'a report has cleared a bit');
      } catch (error) {
        // The kernel's mtty starts and stops a log, and cannot report from it.
        if (!isErrno(error, 'ENOTSUP')) throw error;
      }
      file.deviceFeature(SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP);
    },
  ],
];

/** Whether the device has a feature. */
function has(file: DeviceFile, feature: number): boolean {
  try {
    file.deviceFeature(PROBE | feature);
    return true;
  } catch (error) {
    assert.ok(isErrno(error, 'ENOTTY'), String(error));
    return false;
  }
}

const stateOf = (file: DeviceFile): number | undefined =>
  file.deviceFeature(GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE).deviceState;

function setState(file: DeviceFile, deviceState: number): MigrationData | undefined {
  return file.deviceFeature(SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, { deviceState }).data;
}

/** Reads pieces of an odd size, so that the stream must keep its position. */
function readToEnd(data: MigrationData): Uint8Array {
  const pieces: Uint8Array[] = [];
  for (;;) {
    const piece = new Uint8Array(999);
    const got = data.read(piece);
    if (got === 0) return Buffer.concat(pieces);
    pieces.push(piece.subarray(0, got));
  }
}
