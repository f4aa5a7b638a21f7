/**
 * Times, in seconds, that L1's kernel measured while a VMM attached a device. @see attach-times in lab/l1/commands.sh
 */
export interface AttachTimes {
  /** From opening the group to the last ioctl on the device before the first vCPU ran. */
  readonly attach: number;
  /** Time spent in VFIO_IOMMU_MAP_DMA, before that or after it. */
  readonly map: number;
}

/** VFIO_IOMMU_MAP_DMA without direction and size bits, as the probe prints it. */
const MAP_DMA = '0x3b71';

/** @throws Error if the trace is missing or incomplete */
export function parseAttachTimes(output: string): AttachTimes {
  const lines = [...output.matchAll(/^LAB-TRACE ([\d.]+): lab_(\w+): .*?(?:request=(\w+))?\r?$/gm)];
  const opened = lines.find(([, , what]) => what === 'group');
  const called = lines.findLast(([, , what]) => what === 'called');
  if (opened === undefined || called === undefined) throw new Error(`L1's kernel saw no device\n${output}`);
  let map = 0;
  let begun: number | undefined;
  for (const [, at, what, request] of lines) {
    if (what === 'map' && request === MAP_DMA) begun = Number(at);
    if (what !== 'mapped' || begun === undefined) continue;
    map += Number(at) - begun;
    begun = undefined;
  }
  return { attach: Number(called[1]) - Number(opened[1]), map };
}
