/** What a person can do to a machine from the page. */
import { z } from 'zod';

/** The calls of a machine that change it; each is absent where the machine has none. */
export interface ControlSource {
  /** What the machine does. */
  readonly state?: 'starting' | 'running' | 'paused' | 'ended';
  /** Stops all vCPUs. */
  pause?(): Promise<void>;
  /** Lets them continue. */
  resume?(): Promise<void>;
  /** Restarts the guest. */
  reset?(): Promise<void>;
  /** Requests a shutdown; the guest decides. */
  pressPowerButton?(): void;
  /** Ends the run. @param by who asked for it */
  stop?(by?: string): void;
  /** Attaches a device; resolves to its PCI slot. */
  attach?(device: {
    readonly address: string;
    readonly options: Readonly<Record<string, string>>;
  }): Promise<number>;
  /** Detaches a device. @param options `force`: without asking the guest */
  detach?(slot: number, options?: { readonly force?: boolean }): Promise<void>;
}

const attachBody = z.strictObject({
  address: z.string().min(1).max(4096),
  options: z.record(z.string(), z.string()).default({}),
});
const detachBody = z.strictObject({ slot: z.int().min(1).max(31), force: z.boolean().default(false) });

type Control = (body: unknown) => unknown;

/** The controls that a machine has, by name. Each throws, or rejects, with the error of its call, or of a wrong body. */
export function controlsOf(source: ControlSource): Readonly<Record<string, Control>> {
  const { pause, resume, reset, pressPowerButton, stop, attach, detach } = source;
  return {
    ...(pause && { pause: () => pause.call(source) }),
    ...(resume && { resume: () => resume.call(source) }),
    ...(reset && { reset: () => reset.call(source) }),
    ...(pressPowerButton && { power: () => pressPowerButton.call(source) }),
    ...(stop && { stop: () => stop.call(source, 'the page') }),
    ...(attach && { attach: (body) => attach.call(source, attachBody.parse(body)) }),
    ...(detach && {
      detach: (body) => {
        const { slot, force } = detachBody.parse(body);
        return detach.call(source, slot, { force });
      },
    }),
  };
}
