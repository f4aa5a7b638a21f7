import { basename } from 'node:path';
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import type { ContainerFile, DeviceFile, GroupFile } from '../uapi.js';
import { deniedHint } from './access.js';
import { explain, groupPath, type HostContext, vfioPath } from './context.js';
import { HostDeviceFile } from './device.js';
import { holdersHint } from './holders.js';
import { absent } from './kernel-modules.js';
import {
  GroupStatus,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
} from './structs.js';
import type { HostGroup } from './sysfs.js';
import type { SystemFile } from './system.js';

/** `/dev/vfio/N`, or `/dev/vfio/noiommu-N`, of the kernel. */
export class HostGroupFile implements GroupFile {
  readonly #context: HostContext;
  readonly #file: SystemFile;

  private constructor(context: HostContext, file: SystemFile) {
    this.#context = context;
    this.#file = file;
  }

  /**
   * @throws SysError ENODEV if there is no such group, or none of its devices is bound to a vfio driver; EBUSY, naming
   *   the process that has it open; EACCES; EPERM for a noiommu group without CAP_SYS_RAWIO
   */
  static open(context: HostContext, number: number): HostGroupFile {
    const group = context.sysfs.group(number);
    const path = groupPath(context, group);
    try {
      return new HostGroupFile(context, context.system.open(path));
    } catch (error) {
      if (isErrno(error, 'ENOENT')) throw absent(path, absenceHint(context, number), error);
      throw explain(error, ({ code }) => openHint(context, code, path, group));
    }
  }

  /** Takes ownership of a file that another process opened. */
  static adopt(context: HostContext, file: SystemFile): HostGroupFile {
    return new HostGroupFile(context, file);
  }

  get target(): string {
    return this.#file.target;
  }

  get fd(): number {
    return this.#file.fd;
  }

  getStatus(): number {
    const status = GroupStatus.encode({ argsz: GroupStatus.size });
    this.#file.ioctl(VFIO_GROUP_GET_STATUS, status);
    return GroupStatus.decode(status).flags;
  }

  setContainer(container: ContainerFile): void {
    if (container.fd === undefined) {
      const hint = `${container.target} is not a container of the kernel`;
      const { target } = this;
      throw new SysError({ call: VFIO_GROUP_SET_CONTAINER.name, target, errno: errno.EINVAL, hint });
    }
    this.#file.ioctl(VFIO_GROUP_SET_CONTAINER, s32(container.fd));
  }

  unsetContainer(): void {
    this.#file.ioctl(VFIO_GROUP_UNSET_CONTAINER);
  }

  /** @param name the device's name; for a VF whose physical function is in user space, followed by ` vf_token=UUID` */
  getDeviceFd(name: string): DeviceFile {
    const device = name.split(' ')[0] as string;
    const fd = this.#file.ioctl(VFIO_GROUP_GET_DEVICE_FD, Buffer.from(`${name}\0`), device);
    return HostDeviceFile.adopt(this.#context.system.adopt(fd, device));
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

const s32 = (value: number): Uint8Array => new Uint8Array(new Int32Array([value]).buffer);

function absenceHint(context: HostContext, number: number): string {
  const { sysfs } = context;
  const group = sysfs.group(number);
  const { members } = group;
  if (!members.some(({ isVfio }) => isVfio)) {
    const names = members.map(({ name, driver }) => `${name} (${driver ?? 'no driver'})`).join(', ');
    return `no device of group ${number} is with a vfio driver: ${names}`;
  }
  return sysfs.exists('class/vfio', basename(groupPath(context, group)), 'dev')
    ? 'the kernel has the group, but there is no such file: is /dev a devtmpfs, and visible in here?'
    : 'this kernel has no device files for groups: it needs CONFIG_VFIO_GROUP; use interface iommufd instead';
}

function openHint(context: HostContext, code: string, path: string, group: HostGroup): string | undefined {
  switch (code) {
    case 'EBUSY':
      return `a group has one user at a time, through its file or its cdevs: ${holdersHint(context.roots, usedPaths(context, path, group))}`;
    case 'EACCES':
      return deniedHint(path);
    case 'EPERM':
      return 'a device without an IOMMU needs CAP_SYS_RAWIO';
    default:
      return undefined;
  }
}

/** The files through which a group can be in use: its own, and the cdevs of its devices. */
function usedPaths(context: HostContext, path: string, { members }: HostGroup): string[] {
  const cdevs = members.map(({ cdev }) => cdev).filter((cdev) => cdev !== undefined);
  return [path, ...cdevs.map((cdev) => vfioPath(context, 'devices', cdev))];
}
