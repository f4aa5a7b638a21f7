import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { unknownOption } from '../../vfio/option-problem.js';
import type { Resolution } from '../vgpu/edid-region.js';
import { VIRTIO_GPU_MAX_SCANOUTS } from './spec.js';

/** Parsed options of a card. */
export interface GpuOptions {
  /** Screens. */
  readonly heads: number;
  /** With which each of them begins, pixels. */
  readonly mode: Resolution;
  /** For pictures. */
  readonly memoryBytes: number;
}

const NAMES = ['heads', 'width', 'height', 'memory'];
const [LEAST_PIXELS, MOST_PIXELS] = [64, 4095];
const [LEAST_MIB, MOST_MIB] = [1, 1024];

/** Parses `heads=`, `width=`, `height=` and `memory=`. @throws SysError EINVAL with a hint that lists all problems */
export function parseOptions(options: Readonly<Record<string, string>>, target: string): GpuOptions {
  const problems = Object.keys(options)
    .filter((name) => !NAMES.includes(name))
    .map((name) => unknownOption(name, NAMES));
  const number = (name: string, byDefault: number, least: number, most: number, unit = ''): number => {
    const text = options[name] ?? `${byDefault}`;
    const value = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= least && value <= most) return value;
    problems.push(`${name}: '${text}' is not a number${unit} from ${least} to ${most}`);
    return byDefault;
  };
  const parsed = {
    heads: number('heads', 1, 1, VIRTIO_GPU_MAX_SCANOUTS),
    mode: {
      xres: number('width', 1024, LEAST_PIXELS, MOST_PIXELS, ' of pixels'),
      yres: number('height', 768, LEAST_PIXELS, MOST_PIXELS, ' of pixels'),
    },
    memoryBytes: number('memory', 64, LEAST_MIB, MOST_MIB, ' of MiB') << 20,
  };
  if (problems.length === 0) return parsed;
  throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
}
