/** Whether a machine that moves was paused: it is paused where it arrives, too. */
import type { StateSection } from '../../sys/state-sections.js';

/** The section's name. */
export const PAUSED_SECTION = 'move/paused';

/** Takes the section out of a state. One that is missing stands for a machine that ran. */
export function takePaused(sections: readonly StateSection[]): {
  readonly isPaused: boolean;
  readonly rest: readonly StateSection[];
} {
  const isPaused = sections.find(({ name }) => name === PAUSED_SECTION)?.data[0] === 1;
  return { isPaused, rest: sections.filter(({ name }) => name !== PAUSED_SECTION) };
}
