/** The options `--screenshot`, `--view` and `--display`: what is known to be wrong with them before the start. */
import { usageError } from '../command-line.js';
import type { DeviceConfig } from '../config.js';
import { parseSlot } from '../device-text.js';
import { outputFileProblem } from '../output-file.js';
import { slotsOf } from '../slots.js';

/** Devices of this process that show nothing. Of any other it is not known before it is open. */
const WITHOUT_DISPLAY = ['virtio-net', 'virtio-blk', 'virtio-input', 'mtty-1', 'mtty-2', 'testcard'];

const canShow = ({ address }: Pick<DeviceConfig, 'address'>) => !WITHOUT_DISPLAY.includes(address);

/** @throws ConfigError for an option that needs a display where there is none, or a picture that cannot be saved */
export function checkDisplay(
  devices: readonly Pick<DeviceConfig, 'address' | 'slot'>[],
  options: {
    readonly screenshot?: string | undefined;
    readonly view?: number | undefined;
    readonly slot?: number | undefined;
    /** The view shows a machine, too: it needs no display. */
    readonly showsMachine?: boolean;
  },
): void {
  const { screenshot, view, slot, showsMachine = false } = options;
  const asked = screenshot !== undefined ? '--screenshot' : view !== undefined ? '--view' : undefined;
  if (asked === undefined) {
    if (slot === undefined) return;
    throw usageError('--display', 'chooses what --screenshot or --view shows: give one of them');
  }
  const problem = screenshot === undefined ? undefined : outputFileProblem(screenshot);
  if (problem !== undefined) throw usageError('--screenshot', problem);
  if (asked === '--view' && showsMachine && slot === undefined) return;
  if (!devices.some(canShow)) throw usageError(asked, 'no device shows a picture; --device vgpu-small would');
  if (slot === undefined) return;
  const slots = slotsOf(devices);
  const shows = devices
    .map((device, i) => [slots[i] as number, device] as const)
    .filter(([, d]) => canShow(d));
  if (shows.some(([at]) => at === slot)) return;
  const others = shows.map(([at, { address }]) => `${at} (${address})`).join(', ');
  throw usageError('--display', `no device in PCI slot ${slot} shows a picture; it could be ${others}`);
}

/** Parses `--display`. @throws ConfigError */
export function parseDisplay(text: string | undefined): number | undefined {
  return text === undefined ? undefined : parseSlot(text, '--display');
}
