/** VFIO_DEVICE_FEATURE: what devices can beyond regions and interrupts, as bytes: the meaning is the feature's own. */
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import {
  DeviceFeature,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from './structs.js';
import type { SystemFile } from './system.js';
import { uuidBytes } from './uuid.js';

function call(file: SystemFile, feature: number, action: number, data: Uint8Array): Uint8Array {
  if (feature < 0 || feature > VFIO_DEVICE_FEATURE_MASK) {
    const hint = `${feature} is no feature’s number`;
    throw new SysError({ call: VFIO_DEVICE_FEATURE.name, target: file.target, errno: errno.EINVAL, hint });
  }
  const bytes = DeviceFeature.encode({ flags: feature | action }, data.length);
  DeviceFeature.write(bytes, { argsz: bytes.length });
  bytes.set(data, DeviceFeature.size);
  file.ioctl(VFIO_DEVICE_FEATURE, bytes, `${file.target}, feature ${feature}`);
  return bytes.subarray(DeviceFeature.size);
}

const none = new Uint8Array(0);

/**
 * Whether the device has a feature and takes it that way.
 * @param access VFIO_DEVICE_FEATURE_GET, _SET, both, or 0 to ask for the feature alone
 * @throws SysError for a failure that says neither yes nor no
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
 * @throws SysError ENOTTY if the device does not have the feature; EINVAL if it cannot be read
 */
export const getFeature = (file: SystemFile, feature: number, input: Uint8Array): Uint8Array =>
  call(file, feature, VFIO_DEVICE_FEATURE_GET, input);

/** As {@link getFeature}. Some features answer in the structure. */
export const setFeature = (file: SystemFile, feature: number, input: Uint8Array): Uint8Array =>
  call(file, feature, VFIO_DEVICE_FEATURE_SET, input);

/** Sets the secret that openers of a physical function's VFs have to name. @throws SysError EINVAL; ENOTTY for no PF */
export function setVfToken(file: SystemFile, uuid: string): void {
  setFeature(file, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, uuidBytes(uuid));
}
