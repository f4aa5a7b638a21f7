/** A device's own character device, `/dev/vfio/devices/vfioN`, which needs no group; since Linux 6.6. */
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import { Mapping } from '../../sys/mapping.js';
import type { IommufdFile } from '../uapi.js';
import { uuidBytes } from '../uuid.js';
import { deniedHint } from './access.js';
import { explain, groupPath, type HostContext, vfioPath } from './context.js';
import { describeHolders, findHolders } from './holders.js';
import { absent } from './kernel-modules.js';
import { isOlderThan, kernelRelease } from './kernel-release.js';
import {
  AttachIommufdPt,
  BindIommufd,
  DetachIommufdPt,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_FLAG_TOKEN,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
} from './structs.js';
import type { SystemFile } from './system.js';

const PAGE = 4096;

/**
 * Its errors name the device, as those of a group's do.
 * @throws SysError ENODEV if there is no such device, or this kernel does not support cdevs; EACCES
 */
export function openCdev(context: HostContext, node: string): SystemFile {
  const path = vfioPath(context, 'devices', node);
  try {
    return context.system.open(path, deviceName(context, node));
  } catch (error) {
    if (isErrno(error, 'ENOENT')) {
      throw absent(path, absenceHint(context, node), error);
    }
    throw explain(error, ({ code }) => (code === 'EACCES' ? deniedHint(path) : undefined));
  }
}

/** @returns undefined if it is not to be found: opening it says why */
function deviceName({ sysfs }: HostContext, node: string): string | undefined {
  try {
    return sysfs.cdevDevice(node).name;
  } catch {
    return undefined;
  }
}

function absenceHint({ sysfs }: HostContext, node: string): string {
  if (!sysfs.exists('class/vfio-dev', node)) return 'no device with a vfio driver has that node';
  // The class has a device number only if the kernel supports device files.
  return sysfs.exists('class/vfio-dev', node, 'dev')
    ? 'the kernel has the device, but there is no such file: is /dev a devtmpfs, and visible in here?'
    : 'this kernel has no device files for VFIO: it needs CONFIG_VFIO_DEVICE_CDEV (6.6); use groups instead';
}

/** Information about a cdev besides its open file. */
export interface CdevOptions {
  /** Names the processes that hold the device open, through its group or its cdev, for the error of a bind. */
  readonly holders?: (by: 'group' | 'cdev') => string | undefined;
  /** Why this kernel takes no token here; undefined if it does, for all that is known. */
  readonly tokenProblem?: () => string | undefined;
}

/** Up to 6.17, BIND_IOMMUFD refuses every flag with EINVAL, and only a group's GET_DEVICE_FD takes a token. */
export function tokenProblem({ roots }: HostContext): string | undefined {
  const release = kernelRelease(roots);
  if (!isOlderThan(release, 6, 18)) return undefined;
  return `this kernel (${release}) is too old for a VF token by cdev, which needs 6.18: use interface=group`;
}

/** Finds the processes that prevent a device from being bound. */
export function cdevHolders(context: HostContext, node: string): NonNullable<CdevOptions['holders']> {
  return (by) => {
    const path = by === 'cdev' ? vfioPath(context, 'devices', node) : groupPathOf(context, node);
    if (path === undefined) return undefined;
    const others = findHolders(context.roots, [path]).filter(
      ({ pid }) => by === 'group' || pid !== process.pid,
    );
    return others.length === 0 ? undefined : describeHolders(others);
  };
}

function groupPathOf(context: HostContext, node: string): string | undefined {
  const { group } = context.sysfs.cdevDevice(node);
  return group === undefined ? undefined : groupPath(context, context.sysfs.group(group));
}

/**
 * Binds the open cdev to an iommufd and returns the device's id there.
 * @param vfToken the token that the kernel (since 6.18) requires for a VF whose physical function is in user space
 */
export function bindIommufd(
  file: SystemFile,
  iommufd: IommufdFile,
  options: CdevOptions = {},
  vfToken?: string,
): number {
  try {
    return bind(file, iommufd, vfToken);
  } catch (error) {
    throw explain(error, ({ code, hint }) => {
      if (code !== 'EBUSY' && code !== 'EINVAL') return undefined;
      const problem = code === 'EINVAL' && vfToken !== undefined ? options.tokenProblem?.() : undefined;
      if (problem !== undefined) return problem;
      const holders = options.holders?.(code === 'EBUSY' ? 'group' : 'cdev');
      return holders === undefined ? undefined : `${hint}; ${holders}`;
    });
  }
}

function bind(file: SystemFile, iommufd: IommufdFile, vfToken: string | undefined): number {
  if (iommufd.fd === undefined) {
    const hint = `${iommufd.target} is not an iommufd of the kernel`;
    const { target } = file;
    throw new SysError({ call: VFIO_DEVICE_BIND_IOMMUFD.name, target, errno: errno.EINVAL, hint });
  }
  if (vfToken === undefined) {
    const plain = BindIommufd.encode({ argsz: BindIommufd.offsets.token_uuid_ptr, iommufd: iommufd.fd });
    file.ioctl(VFIO_DEVICE_BIND_IOMMUFD, plain);
    return BindIommufd.decode(plain).out_devid;
  }
  const token = uuidBytes(vfToken);
  using memory = Mapping.anonymous(PAGE); // memory that the garbage collector does not move
  memory.view.slice(0, token.length).set(token);
  const request = BindIommufd.encode({
    argsz: BindIommufd.size,
    flags: VFIO_DEVICE_BIND_FLAG_TOKEN,
    iommufd: iommufd.fd,
    token_uuid_ptr: memory.hva,
  });
  file.ioctl(VFIO_DEVICE_BIND_IOMMUFD, request);
  return BindIommufd.decode(request).out_devid;
}

export function attachIoas(file: SystemFile, ioas: number): void {
  const attach = AttachIommufdPt.encode({ argsz: AttachIommufdPt.offsets.pasid, pt_id: ioas });
  file.ioctl(VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach, `${file.target}, IOAS ${ioas}`);
}

export function detachIoas(file: SystemFile): void {
  file.ioctl(VFIO_DEVICE_DETACH_IOMMUFD_PT, DetachIommufdPt.encode({ argsz: DetachIommufdPt.offsets.pasid }));
}
