/** What L2's check `input` prints of the events that the host sends it, and what it must print. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { InputEvent } from '../vfio/driver.js';
import { slowdown } from './patience.js';

const MOST_MS = 30_000;
const [EV_SYN, EV_KEY, EV_REL, EV_ABS] = [0, 1, 2, 3] as const;
const KEY_A = 30;
const BTN_LEFT = 0x110;
const event = (type: number, code: number, value: number): InputEvent => ({ type, code, value });

/** Packets of events, each for the device whose name says what it is. */
export const typed: readonly (readonly [device: string, events: readonly InputEvent[]])[] = [
  ['keyboard', [event(EV_KEY, KEY_A, 1)]],
  ['tablet', [event(EV_ABS, 0, 1234), event(EV_ABS, 1, 32_767)]],
  ['mouse', [event(EV_REL, 0, -5), event(EV_REL, 1, 7)]],
  ['mouse', [event(EV_KEY, BTN_LEFT, 1)]],
  ['keyboard', [event(EV_KEY, KEY_A, 0)]],
];

const lineOf = (device: string, { type, code, value }: InputEvent): string =>
  `tsvisor-${device} ${type} ${code} ${value}`;

/** The lines that the check prints for {@link typed}: every packet ends with a SYN_REPORT. */
export const expectedEvents: readonly string[] = typed.flatMap(([device, events]) =>
  [...events, event(EV_SYN, 0, 0)].map((each) => lineOf(device, each)),
);

/** What the check has printed. */
export const parseL2Events = (output: string): string[] =>
  [...output.matchAll(/^L2-EVENT (\S+ \d+ \d+ -?\d+)\r?$/gm)].map(([, line]) => line as string);

/**
 * Sends all packets, each once the one before it has arrived, as they go to several devices.
 * @param send to the device with that name
 * @returns how many events are wrong, or missing
 */
export async function typeAll(
  output: () => string,
  send: (device: string, events: readonly InputEvent[]) => Promise<void>,
): Promise<number> {
  const end = performance.now() + MOST_MS * slowdown();
  let expected = 0;
  for (const [device, events] of typed) {
    await send(device, events);
    expected += events.length + 1;
    while (parseL2Events(output()).length < expected && performance.now() < end) await sleep(20);
  }
  const got = parseL2Events(output());
  const wrong = expectedEvents.filter((line, i) => got[i] !== line).length;
  return wrong + Math.max(0, got.length - expectedEvents.length);
}
