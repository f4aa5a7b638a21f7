import type { Scope } from '../../sys/scope.js';
import { type FakeEnvironment, fakeEnvironment } from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, type ScriptedNicOptions } from './scripted-nic.js';

export interface Bench {
  readonly nic: ScriptedDevice;
  readonly device: VfioPciDevice;
  readonly environment: FakeEnvironment;
}

export function openNic(
  scope: Scope,
  options: ScriptedNicOptions = {},
  environment = fakeEnvironment(),
): Bench {
  const nic = scope.own(createScriptedNic(options));
  return { nic, device: scope.own(VfioPciDevice.open('nic', nic, environment)), environment };
}

export const COMMAND = 0x04;
export const BAR0 = 0x10;
export const BAR2 = 0x18;
export const BAR4 = 0x20;
export const ROM = 0x30;
export const AT0 = 0xe0000000;
export const AT2 = 0xc100;
export const AT4 = 0xe0100000;

export function place({ device }: Bench): void {
  device.configWrite(BAR0, 4, AT0);
  device.configWrite(BAR2, 4, AT2);
  device.configWrite(BAR4, 4, AT4);
  device.configWrite(BAR4 + 4, 4, 0);
}

/** What the guest sees of the device at which address: `mmio e0000000+8000`, likewise slots and doorbells. */
export function shown({ environment: { mmio, pio, memory, doorbells } }: Bench): string[] {
  const range = (what: string, base: bigint, bytes: bigint | number): string =>
    `${what} ${base.toString(16)}+${bytes.toString(16)}`;
  return [
    ...mmio.ranges.map(({ base, bytes }) => range('mmio', base, bytes)),
    ...pio.ranges.map(({ base, bytes }) => range('pio', base, bytes)),
    ...memory.slots.map(({ gpa, bytes }) => range('slot', gpa, bytes)),
    ...doorbells.bells.map(({ kind, address, bytes }) => range(`${kind} doorbell`, address, bytes)),
  ].sort();
}
