import { join } from 'node:path';
import { list } from '../sysfs.js';

/** Classes of the devices that a person knows by name, and would miss. */
const CLASSES = ['net', 'infiniband', 'nvme', 'block', 'drm', 'sound'];

/**
 * What the host's driver made of a device: `net/eth0`, `nvme/nvme0`. Of a virtio card, whose driver makes a device on
 * another bus, what that is.
 * @param path folder of the device in sysfs
 */
export function hostNames(path: string): string[] {
  const below = (list(path) ?? []).filter((name) => /^virtio\d+$/.test(name));
  const folders = [path, ...below.map((name) => join(path, name))];
  return folders.flatMap((folder) =>
    CLASSES.flatMap((name) => (list(join(folder, name)) ?? []).map((device) => `${name}/${device}`)),
  );
}
