import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { unknownOption } from '../../vfio/option-problem.js';
import { type DiskImage, IMAGE_FORMATS, type ImageFormat } from '../block/disk-image.js';
import { VIRTIO_BLK_ID_BYTES } from './spec.js';

/** Parsed options of a disk. */
export interface VirtioBlkOptions {
  readonly image: DiskImage;
  readonly serial: string;
}

const NAMES = ['file', 'format', 'readonly', 'overlay', 'backing', 'serial'];

/**
 * Parses `file=PATH`, `format=raw|qcow2`, `readonly=on|off`, `overlay=PATH`, `backing=PATH` and `serial=TEXT`.
 * @throws SysError EINVAL with a hint that lists all problems
 */
export function parseOptions(options: Readonly<Record<string, string>>, uuid: string): VirtioBlkOptions {
  const problems: string[] = [];
  for (const name of Object.keys(options)) {
    if (!NAMES.includes(name)) problems.push(unknownOption(name, NAMES));
  }
  const { file = '', format, readonly = 'off', overlay, backing, serial = '' } = options;
  if (file === '') problems.push('file: the path of the disk is missing: file=PATH');
  for (const [name, path] of Object.entries({ file, overlay, backing })) {
    if (path?.includes('\0')) problems.push(`${name}: a path has no zero byte`);
    if (path === '' && name !== 'file') problems.push(`${name}: a path is missing`);
  }
  if (format !== undefined && !(IMAGE_FORMATS as readonly string[]).includes(format))
    problems.push(`format: ${format} is none of ${IMAGE_FORMATS.join(', ')}`);
  if (readonly !== 'on' && readonly !== 'off') problems.push(`readonly: ${readonly} is neither on nor off`);
  if (readonly === 'on' && overlay !== undefined)
    problems.push('readonly: an overlay is for what the guest writes: give one of both');
  if (!/^[\x20-\x7e]*$/.test(serial) || serial.length > VIRTIO_BLK_ID_BYTES)
    problems.push(
      `serial: ${JSON.stringify(serial)} is not ${VIRTIO_BLK_ID_BYTES} characters of ASCII at most`,
    );
  if (problems.length > 0) {
    const target = `virtio-blk ${uuid}`;
    throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
  }
  return {
    image: {
      file,
      format: format as ImageFormat | undefined,
      isReadOnly: readonly === 'on',
      ...{ overlay, backing },
    },
    serial,
  };
}
