/** The kinds of input devices: what each has. */
import {
  ABS_X,
  ABS_Y,
  BTN_EXTRA,
  BTN_LEFT,
  BTN_MIDDLE,
  BTN_RIGHT,
  BTN_SIDE,
  EV_ABS,
  EV_KEY,
  EV_LED,
  EV_REL,
  EV_REP,
  FIRST_KEY,
  LAST_KEY,
  LED_CAPSL,
  LED_NUML,
  LED_SCROLLL,
  REL_HWHEEL,
  REL_WHEEL,
  REL_X,
  REL_Y,
} from './spec.js';

export const KIND_NAMES = ['keyboard', 'tablet', 'mouse'] as const;
/** What an input device is. */
export type InputKindName = (typeof KIND_NAMES)[number];

/** What one kind of input device has. */
export interface InputKind {
  /** As its driver shows it. */
  readonly name: string;
  /** Base class and subclass. */
  readonly pciClass: number;
  readonly product: number;
  /** Codes by event type, EV_. */
  readonly codes: ReadonlyMap<number, readonly number[]>;
}

const BUTTONS = [BTN_LEFT, BTN_RIGHT, BTN_MIDDLE, BTN_SIDE, BTN_EXTRA];
const KEYS = Array.from({ length: LAST_KEY - FIRST_KEY + 1 }, (_, i) => FIRST_KEY + i);
/** REP_DELAY and REP_PERIOD: the driver repeats keys. */
const REPEATS = [0, 1];

export const KINDS: Readonly<Record<InputKindName, InputKind>> = {
  keyboard: {
    name: 'tsvisor keyboard',
    pciClass: 0x0900,
    product: 1,
    codes: new Map([
      [EV_KEY, KEYS],
      [EV_LED, [LED_NUML, LED_CAPSL, LED_SCROLLL]],
      [EV_REP, REPEATS],
    ]),
  },
  tablet: {
    name: 'tsvisor tablet',
    pciClass: 0x0980,
    product: 2,
    codes: new Map([
      [EV_KEY, BUTTONS],
      [EV_REL, [REL_HWHEEL, REL_WHEEL]],
      [EV_ABS, [ABS_X, ABS_Y]],
    ]),
  },
  mouse: {
    name: 'tsvisor mouse',
    pciClass: 0x0902,
    product: 3,
    codes: new Map([
      [EV_KEY, BUTTONS],
      [EV_REL, [REL_X, REL_Y, REL_HWHEEL, REL_WHEEL]],
    ]),
  },
};
