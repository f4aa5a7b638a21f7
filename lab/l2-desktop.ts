/** A person at a guest's keyboard and tablet, while L2's check `input` prints what arrives. */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseL2Events } from './l2-input.js';
import { slowdown } from './patience.js';

const MOST_MS = 30_000;

/** What is pressed: `KeyboardEvent.code`, or several with `+`, which are held while the last one is pressed; and their KEY_ numbers. */
export interface Pressed {
  readonly keys: string;
  readonly codes: readonly number[];
}

/** In front of the picture of a guest, by a browser or without one. */
export interface Person {
  /** Presses and releases. */
  press(pressed: Pressed): Promise<void>;
  /** Moves the pointer to a place in the picture; both from 0 to 1. */
  point(x: number, y: number): Promise<void>;
  /** Presses and releases the left button. */
  click(): Promise<void>;
}

const PRESSED: readonly Pressed[] = [
  { keys: 'KeyA', codes: [30] },
  { keys: 'Shift+Digit1', codes: [42, 2] },
  { keys: 'Tab', codes: [15] },
  { keys: 'F5', codes: [63] },
  { keys: 'ArrowLeft', codes: [105] },
];
/** Where the pointer goes, and the largest value of the tablet's axes. */
const PLACE = { x: 0.25, y: 0.75 };
export const AXIS = 32_767;
export const BTN_LEFT = 0x110;

const SYN = '0 0 0';
const keyLines: readonly string[] = PRESSED.flatMap(({ codes }) => [
  ...codes.flatMap((code) => [`1 ${code} 1`, SYN]),
  ...codes.toReversed().flatMap((code) => [`1 ${code} 0`, SYN]),
]).map((line) => `tsvisor-keyboard ${line}`);
const buttonLines = [`1 ${BTN_LEFT} 1`, SYN, `1 ${BTN_LEFT} 0`, SYN].map((line) => `tsvisor-tablet ${line}`);
/** A position is two axes and a SYN_REPORT. */
const POSITION_LINES = 3;
/** How many events the guest's check waits for. */
export const DESKTOP_EVENTS = keyLines.length + POSITION_LINES + buttonLines.length;

/** Lets a person type, point and click. Returns how many events are wrong, or missing. */
export async function useDesk(person: Person, output: () => string): Promise<number> {
  const end = performance.now() + MOST_MS * slowdown();
  const arrived = async (count: number): Promise<string[]> => {
    while (parseL2Events(output()).length < count && performance.now() < end) await sleep(20);
    return parseL2Events(output());
  };
  for (const pressed of PRESSED) await person.press(pressed);
  await arrived(keyLines.length); // the tablet is another file of the guest, which is read in no order with this one
  await person.point(PLACE.x, PLACE.y);
  await arrived(keyLines.length + POSITION_LINES);
  await person.click();
  return wrongEvents(await arrived(DESKTOP_EVENTS));
}

function wrongEvents(got: readonly string[]): number {
  const [x, y, syn] = got.slice(keyLines.length, keyLines.length + POSITION_LINES);
  const isNear = (line: string | undefined, axis: number, part: number): boolean => {
    const value = Number(line?.split(`tsvisor-tablet 3 ${axis} `)[1]);
    return Math.abs(value - part * AXIS) < AXIS / 100;
  };
  const wrongPlace = [isNear(x, 0, PLACE.x), isNear(y, 1, PLACE.y), syn === `tsvisor-tablet ${SYN}`].filter(
    (is) => !is,
  ).length;
  const differing = (wanted: readonly string[], from: number): number =>
    wanted.filter((line, i) => got[from + i] !== line).length;
  return (
    wrongPlace +
    differing(keyLines, 0) +
    differing(buttonLines, keyLines.length + POSITION_LINES) +
    Math.max(0, got.length - DESKTOP_EVENTS)
  );
}
