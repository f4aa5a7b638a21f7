/**
 * VFIO_DEVICE_FEATURE of kernel devices. {@link deviceFeature} encodes the structures of linux/vfio.h that the seam
 * declares; {@link getFeature} and {@link setFeature} take the bytes of any other.
 */
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { ioctl } from '../../sys/ioctl.js';
import { Mapping } from '../../sys/mapping.js';
import {
  bitmapBytes,
  type FeatureInput,
  type FeatureOutput,
  type PrecopyInfo,
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
import { FdMigrationData } from '../migration-data.js';
import { uuidBytes } from '../uuid.js';
import { DeviceFeature, VFIO_DEVICE_FEATURE } from './structs.js';
import {
  FeatureDmaLoggingControl,
  FeatureDmaLoggingRange,
  FeatureDmaLoggingReport,
  FeatureMigDataSize,
  FeatureMigration,
  FeatureMigState,
  PrecopyInfoStruct,
  VFIO_MIG_GET_PRECOPY_INFO,
} from './structs-feature.js';
import type { SystemFile } from './system.js';

const PAGE = 4096;

const targetOf = (file: SystemFile, feature: number): string => `${file.target}, feature ${feature}`;

function failure(file: SystemFile, feature: number, code: 'EINVAL' | 'ENOTTY', hint: string): SysError {
  const target = targetOf(file, feature);
  return new SysError({ call: VFIO_DEVICE_FEATURE.name, target, errno: errno[code], hint });
}

function call(file: SystemFile, feature: number, action: number, data: Uint8Array): Uint8Array {
  if (feature < 0 || feature > VFIO_DEVICE_FEATURE_MASK)
    throw failure(file, feature, 'EINVAL', `${feature} is not the number of a feature`);
  const bytes = DeviceFeature.encode({ flags: (feature | action) >>> 0 }, data.length);
  DeviceFeature.write(bytes, { argsz: bytes.length });
  bytes.set(data, DeviceFeature.size);
  file.ioctl(VFIO_DEVICE_FEATURE, bytes, targetOf(file, feature));
  return bytes.subarray(DeviceFeature.size);
}

const none = new Uint8Array(0);

/**
 * Whether the device supports a feature with the given access.
 * @param access VFIO_DEVICE_FEATURE_GET, _SET or both; 0 checks for the feature alone
 * @throws SysError for an error other than those that mean "not supported"
 */
export function probeFeature(file: SystemFile, feature: number, access = 0): boolean {
  try {
    call(file, feature, VFIO_DEVICE_FEATURE_PROBE | access, none);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOTTY') || isErrno(error, 'EINVAL')) return false;
    throw error;
  }
}

/**
 * @param input the structure, with its input fields set
 * @returns the structure as the kernel filled it in
 * @throws SysError ENOTTY if the device lacks the feature; EINVAL if the feature does not support GET
 */
export const getFeature = (file: SystemFile, feature: number, input: Uint8Array): Uint8Array =>
  call(file, feature, VFIO_DEVICE_FEATURE_GET, input);

/** As {@link getFeature}, for SET. Some features return output in the structure. */
export const setFeature = (file: SystemFile, feature: number, input: Uint8Array): Uint8Array =>
  call(file, feature, VFIO_DEVICE_FEATURE_SET, input);

/**
 * VFIO_DEVICE_FEATURE with a feature's structure. Passes the flags to the kernel unchanged.
 * @throws SysError ENOTTY for a feature that the device, the kernel or this function does not support; EINVAL
 */
export function deviceFeature(file: SystemFile, flags: number, input: FeatureInput = {}): FeatureOutput {
  const feature = flags & VFIO_DEVICE_FEATURE_MASK;
  const action = flags & ~VFIO_DEVICE_FEATURE_MASK;
  if (action !== VFIO_DEVICE_FEATURE_GET && action !== VFIO_DEVICE_FEATURE_SET) {
    // A probe, or flags that the kernel refuses: no structure follows.
    call(file, feature, action, none);
    return {};
  }
  const isSet = action === VFIO_DEVICE_FEATURE_SET;
  /** Returns required input. If it is missing, a device that lacks the feature reports that instead. */
  const need = <T>(value: T | undefined, what: string): T => {
    if (value !== undefined) return value;
    call(file, feature, VFIO_DEVICE_FEATURE_PROBE | action, none);
    throw failure(file, feature, 'EINVAL', `no ${what} is given`);
  };
  switch (feature) {
    case VFIO_DEVICE_FEATURE_PCI_VF_TOKEN:
      call(file, feature, action, uuidBytes(need(input.vfToken, 'token')));
      return {};
    case VFIO_DEVICE_FEATURE_MIGRATION: {
      const reply = call(file, feature, action, FeatureMigration.encode());
      return { migrationFlags: Number(FeatureMigration.decode(reply).flags) };
    }
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
      return migState(file, action, isSet ? need(input.deviceState, 'state') : 0);
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: {
      const reply = call(file, feature, action, FeatureMigDataSize.encode());
      return { stopCopyLength: FeatureMigDataSize.decode(reply).stop_copy_length };
    }
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
      return startLogging(file, action, need(input.logging, 'range'));
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
      call(file, feature, action, none);
      return {};
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
      return reportLogging(file, action, need(input.report, 'range'));
    default:
      call(file, feature, VFIO_DEVICE_FEATURE_PROBE | action, none);
      throw failure(
        file,
        feature,
        'ENOTTY',
        'its structure is not supported here: use getFeature or setFeature with bytes',
      );
  }
}

function migState(file: SystemFile, action: number, state: number): FeatureOutput {
  const request = FeatureMigState.encode({ device_state: state, data_fd: -1 });
  const reply = FeatureMigState.decode(call(file, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, action, request));
  const { device_state: deviceState, data_fd: fd } = reply;
  if (action !== VFIO_DEVICE_FEATURE_SET || fd < 0) return { deviceState };
  const data = new FdMigrationData(Fd.adopt(fd, `migration data of ${file.target}`), precopyInfo);
  return { deviceState, data };
}

/** VFIO_MIG_GET_PRECOPY_INFO, of the descriptor that PRE_COPY has given. @param call as the ioctl of sys */
export function precopyInfo(fd: Fd, call = ioctl): PrecopyInfo {
  const bytes = PrecopyInfoStruct.encode({ argsz: PrecopyInfoStruct.size });
  call(fd, VFIO_MIG_GET_PRECOPY_INFO, bytes);
  const { initial_bytes: initialBytes, dirty_bytes: dirtyBytes } = PrecopyInfoStruct.decode(bytes);
  return { initialBytes, dirtyBytes };
}

function startLogging(
  file: SystemFile,
  action: number,
  { pageSize, ranges }: NonNullable<FeatureInput['logging']>,
): FeatureOutput {
  const list = new Uint8Array(ranges.length * FeatureDmaLoggingRange.size);
  for (const [i, range] of ranges.entries())
    FeatureDmaLoggingRange.write(list, range, i * FeatureDmaLoggingRange.size);
  using memory = userMemory(list, list.length);
  const request = FeatureDmaLoggingControl.encode({
    page_size: pageSize,
    num_ranges: ranges.length,
    ranges: memory.hva,
  });
  const reply = call(file, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, action, request);
  return { pageSize: FeatureDmaLoggingControl.decode(reply).page_size };
}

function reportLogging(
  file: SystemFile,
  action: number,
  report: NonNullable<FeatureInput['report']>,
): FeatureOutput {
  const feature = VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
  const { iova, length, pageSize, bitmap } = report;
  const problem = reportProblem(report);
  if (problem !== undefined) {
    call(file, feature, VFIO_DEVICE_FEATURE_PROBE | action, none);
    throw failure(file, feature, 'EINVAL', problem);
  }
  const bytes = Number(bitmapBytes(length, pageSize));
  using memory = userMemory(bitmap.subarray(0, bytes), bytes);
  const request = FeatureDmaLoggingReport.encode({ iova, length, page_size: pageSize, bitmap: memory.hva });
  call(file, feature, action, request);
  bitmap.set(memory.view.slice(0, Math.min(bytes, bitmap.length)));
  return {};
}

/** A copy in memory that the garbage collector does not move, for a structure that points to it. */
function userMemory(data: Uint8Array, bytes: number): Mapping {
  const memory = Mapping.anonymous(Math.max(1, Math.ceil(bytes / PAGE)) * PAGE);
  memory.view.slice(0, data.length).set(data);
  return memory;
}

/**
 * Sets the token that users of a physical function's VFs must present.
 * @throws SysError EINVAL; ENOTTY if it is no PF
 */
export function setVfToken(file: SystemFile, uuid: string): void {
  setFeature(file, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, uuidBytes(uuid));
}
