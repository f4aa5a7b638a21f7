/** A signal at some moment of a program's life. */
import { constants } from 'node:os';

const SIGNALS = ['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2'] as const;
export type Signal = (typeof SIGNALS)[number];

export interface Moment {
  readonly scenario: string;
  readonly signal: Signal;
  /** Microseconds after the program was started. */
  readonly at: number;
}

/** The moment's name, by which it can be run again: `run:SIGTERM:153000`. */
export const nameOf = ({ scenario, signal, at }: Moment): string => `${scenario}:${signal}:${at}`;

/** Undefined for a name that is none of a moment. */
export function momentOf(name: string): Moment | undefined {
  const [, scenario = '', signal, at] = /^(\w+):(SIG\w+):(\d+)$/.exec(name) ?? [];
  const known = SIGNALS.find((each) => each === signal);
  return known === undefined ? undefined : { scenario, signal: known, at: Number(at) };
}

/** @param ms how long the scenario takes */
export function pickMoment(scenario: string, ms: number, random: () => number): Moment {
  const signal = SIGNALS[Math.floor(random() * SIGNALS.length)] as Signal;
  return { scenario, signal, at: Math.floor(random() * ms * 1000) };
}

export const signalNumber = (signal: Signal): number => constants.signals[signal];
