import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { MdevInstance, MdevType, VendorDriver } from '../../vfio/driver.js';
import { optionProblem, unknownOption } from '../../vfio/option-problem.js';
import { VgpuDevice } from './device.js';

/** An instance of a display card. */
export interface VgpuInstance extends MdevInstance {
  /** The device's functions, and its display. */
  readonly ops: VgpuDevice;
}

interface VgpuType extends MdevType {
  readonly vramMib: number;
  readonly xres: number;
  readonly yres: number;
}

/** Total video memory of all cards, MiB. */
const POOL_MIB = 256;
const BYTES_PER_PIXEL = 4;
const LEAST_PIXELS = 64;
const MOST_PIXELS = 4095;

const type = (name: string, vramMib: number, xres: number, yres: number): VgpuType => ({
  name: `vgpu-${name}`,
  description: `display card with ${vramMib} MiB, bochs-display, ${xres}x${yres} (xres=, yres=)`,
  deviceApi: 'vfio-pci',
  maxInstances: POOL_MIB / vramMib,
  options: [
    { name: 'xres', value: 'PIXELS', description: `width of the preferred mode, by default ${xres}` },
    { name: 'yres', value: 'PIXELS', description: `height of the preferred mode, by default ${yres}` },
  ],
  vramMib,
  xres,
  yres,
});

/**
 * The vendor driver `vgpu`: display cards that stock Linux drives with bochs-drm, in three sizes that share one pool of
 * video memory. Options `xres=` and `yres=` set the screen's preferred mode. `create` throws SysError EINVAL for an
 * invalid option, ENOSPC if too little memory is left.
 */
export function createVgpuDriver(): VendorDriver & {
  /** As {@link VendorDriver.create}. */
  create(...parameters: Parameters<VendorDriver['create']>): VgpuInstance;
} {
  // Twice the memory of the mode: drivers draw the next frame beside the one that is displayed.
  const types = [type('small', 8, 1024, 768), type('medium', 16, 1920, 1080), type('large', 64, 3840, 2160)];
  let left = POOL_MIB;
  const sizeOf = (of: MdevType) => (of as VgpuType).vramMib;
  return {
    name: 'vgpu',
    types,
    availableInstances: (of) => Math.floor(left / sizeOf(of)),
    checkOptions: (of, options) => optionProblem(() => parseOptions(of as VgpuType, options, of.name)),
    create(of, uuid, options) {
      const { vramMib } = of as VgpuType;
      const target = `${of.name} ${uuid}`;
      const { xres, yres } = parseOptions(of as VgpuType, options, target);
      if (vramMib > left) {
        const hint = `${left} MiB of ${POOL_MIB} are left`;
        throw new SysError({ call: 'mdev create', target, errno: errno.ENOSPC, hint });
      }
      const ops = new VgpuDevice({ name: target, vramBytes: vramMib << 20, xres, yres });
      left -= vramMib;
      let isThere = true;
      return {
        ops,
        [Symbol.dispose]() {
          if (!isThere) return;
          isThere = false;
          left += vramMib;
          ops[Symbol.dispose]();
        },
      };
    },
  };
}

function parseOptions(of: VgpuType, options: Readonly<Record<string, string>>, target: string) {
  const { xres = `${of.xres}`, yres = `${of.yres}`, ...others } = options;
  const problems = Object.keys(others).map((name) => unknownOption(name, ['xres', 'yres']));
  const pixels = (name: string, text: string): number => {
    const value = /^\d{1,5}$/.test(text) ? Number(text) : 0;
    if (value < LEAST_PIXELS || value > MOST_PIXELS)
      problems.push(`${name}: '${text}' is not a number of pixels from ${LEAST_PIXELS} to ${MOST_PIXELS}`);
    return value;
  };
  const mode = { xres: pixels('xres', xres), yres: pixels('yres', yres) };
  if (mode.xres * mode.yres * BYTES_PER_PIXEL > of.vramMib << 20)
    problems.push(`${mode.xres}x${mode.yres} needs more than the ${of.vramMib} MiB of ${of.name}`);
  if (problems.length === 0) return mode;
  throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
}
