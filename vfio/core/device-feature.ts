/** VFIO_DEVICE_FEATURE of the core's devices. After vfio_ioctl_device_feature. */
import { U64_END } from '../dma-range.js';
import type { DmaLoggingOps, MigrationOps, VfioDeviceOps } from '../driver.js';
import {
  type FeatureInput,
  type FeatureOutput,
  featureFlagsProblem,
  reportProblem,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '../feature.js';
import { isUuid } from '../uuid.js';
import { vfioError } from '../vfio-error.js';
import { setDeviceState } from './migration.js';
import type { VfToken } from './vf-token.js';

/** As many struct vfio_device_feature_dma_logging_range as fit in a page. */
const LOG_MAX_RANGES = 256;

interface Feature {
  /** Supported GET and SET bits. */
  readonly supported: number;
  run(isSet: boolean, input: FeatureInput): FeatureOutput;
}

/**
 * @param flags a VFIO_DEVICE_FEATURE_ number, with GET or SET; PROBE with any of these only checks for support
 * @param vfToken the device's own, if it is a physical function
 * @throws SysError EINVAL for unknown flags, for both or neither of GET and SET, or for one that the feature does not
 *   support; ENOTTY for a feature that the device lacks
 */
export function deviceFeature(
  ops: VfioDeviceOps,
  flags: number,
  input: FeatureInput = {},
  vfToken?: VfToken,
): FeatureOutput {
  const call = 'VFIO_DEVICE_FEATURE';
  const both = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
  const isProbe = (flags & VFIO_DEVICE_FEATURE_PROBE) !== 0;
  const problem = featureFlagsProblem(flags);
  if (problem !== undefined) throw vfioError(call, ops.name, 'EINVAL', problem);
  const feature = featureOf(ops, vfToken, flags & VFIO_DEVICE_FEATURE_MASK);
  if (feature === undefined) throw vfioError(call, ops.name, 'ENOTTY', 'the device lacks the feature');
  if ((flags & both & ~feature.supported) !== 0)
    throw vfioError(call, ops.name, 'EINVAL', 'the feature does not support this operation');
  if (isProbe) return {};
  if ((flags & both) === 0) throw vfioError(call, ops.name, 'EINVAL', 'GET or SET');
  return feature.run((flags & VFIO_DEVICE_FEATURE_SET) !== 0, input);
}

function featureOf(ops: VfioDeviceOps, vfToken: VfToken | undefined, number: number): Feature | undefined {
  const get = VFIO_DEVICE_FEATURE_GET;
  const set = VFIO_DEVICE_FEATURE_SET;
  const { migration, dmaLogging } = ops;
  if (vfToken !== undefined && number === VFIO_DEVICE_FEATURE_PCI_VF_TOKEN) {
    // Only SET: GET would tell the token of the function's last user.
    return { supported: set, run: (_isSet, input) => setVfToken(ops, vfToken, input) };
  }
  if (migration !== undefined) {
    switch (number) {
      case VFIO_DEVICE_FEATURE_MIGRATION:
        return { supported: get, run: () => ({ migrationFlags: migration.flags }) };
      case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
        return { supported: get | set, run: (isSet, input) => deviceState(ops, migration, isSet, input) };
      case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
        return { supported: get, run: () => ({ stopCopyLength: migration.getDataSize() }) };
    }
  }
  if (dmaLogging === undefined) return undefined;
  switch (number) {
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
      return { supported: set, run: (_isSet, input) => startLogging(ops.name, dmaLogging, input) };
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
      return {
        supported: set,
        run() {
          dmaLogging.stop();
          return {};
        },
      };
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
      return { supported: get, run: (_isSet, input) => reportLogging(ops.name, dmaLogging, input) };
    default:
      return undefined;
  }
}

/** @throws SysError EINVAL without a UUID. @see vfio_pci_core_feature_token */
function setVfToken(ops: VfioDeviceOps, vfToken: VfToken, input: FeatureInput): FeatureOutput {
  const call = 'VFIO_DEVICE_FEATURE_PCI_VF_TOKEN';
  if (input.vfToken === undefined || !isUuid(input.vfToken))
    throw vfioError(call, ops.name, 'EINVAL', 'the token must be a UUID');
  vfToken.uuid = input.vfToken;
  return {};
}

function deviceState(
  ops: VfioDeviceOps,
  migration: MigrationOps,
  isSet: boolean,
  input: FeatureInput,
): FeatureOutput {
  if (!isSet) return { deviceState: migration.getState() };
  const call = 'VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE';
  if (input.deviceState === undefined) throw vfioError(call, ops.name, 'EINVAL', 'no state is given');
  const data = setDeviceState(ops, input.deviceState);
  return { deviceState: input.deviceState, ...(data === undefined ? {} : { data }) };
}

/** @throws SysError EINVAL for no ranges, misaligned or overlapping ones; E2BIG for too many; EOVERFLOW */
function startLogging(name: string, dmaLogging: DmaLoggingOps, { logging }: FeatureInput): FeatureOutput {
  const call = 'VFIO_DEVICE_FEATURE_DMA_LOGGING_START';
  const { ranges, pageSize } = logging ?? { ranges: [], pageSize: 0n };
  if (ranges.length === 0 || pageSize <= 0n)
    throw vfioError(call, name, 'EINVAL', 'no ranges, or no page size');
  if (ranges.length > LOG_MAX_RANGES)
    throw vfioError(call, name, 'E2BIG', `at most ${LOG_MAX_RANGES} ranges`);
  for (const { iova, length } of ranges) {
    if (length <= 0n || iova % pageSize !== 0n || length % pageSize !== 0n) {
      throw vfioError(call, name, 'EINVAL', 'a range is empty or not aligned to the page size');
    }
    if (iova + length >= U64_END) throw vfioError(call, name, 'EOVERFLOW', 'a range wraps');
  }
  const sorted = [...ranges].sort((a, b) => (a.iova < b.iova ? -1 : 1));
  for (const [i, { iova, length }] of sorted.entries()) {
    const next = sorted[i + 1];
    if (next !== undefined && next.iova < iova + length) {
      throw vfioError(call, name, 'EINVAL', 'ranges overlap');
    }
  }
  return { pageSize: dmaLogging.start(ranges, pageSize) };
}

/**
 * @throws SysError EINVAL for a page size below 4096 or not a power of two, or a bitmap that is too short; EOVERFLOW
 */
function reportLogging(name: string, dmaLogging: DmaLoggingOps, { report }: FeatureInput): FeatureOutput {
  const call = 'VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT';
  if (report === undefined) throw vfioError(call, name, 'EINVAL', 'no range is given');
  const { iova, length, pageSize, bitmap } = report;
  const problem = reportProblem(report);
  if (problem !== undefined) throw vfioError(call, name, 'EINVAL', problem);
  if (iova + length >= U64_END) throw vfioError(call, name, 'EOVERFLOW', 'the range wraps');
  dmaLogging.readAndClear({ iova, length }, pageSize, bitmap);
  return {};
}
