/** Notes of an assigned device: the steps of attaching, and later failures. */
import { trace } from '../../sys/trace.js';

/** The subject of a note. */
export type NoteSubject =
  | 'open'
  | 'reset'
  | 'config'
  | 'bar'
  | 'rom'
  | 'intx'
  | 'msi'
  | 'msix'
  | 'err'
  | 'req'
  | 'access'
  | 'sriov'
  | 'close';

/** Publishes `{ what, device, text }` on trace.vfio; `text` is for display. */
export function note(device: string, what: NoteSubject, text: string): void {
  if (trace.vfio.hasSubscribers) trace.vfio.publish({ what, device, text });
}

/** The same for what a person should know of a device that is used nevertheless. */
export function warn(device: string, what: NoteSubject, text: string): void {
  if (trace.vfio.hasSubscribers) trace.vfio.publish({ what, device, text, level: 'warn' });
}

/** Publishes a guest action that no correct driver performs, on trace.guestMisuse. */
export function noteMisuse(device: string, what: NoteSubject, text: string): void {
  if (trace.guestMisuse.hasSubscribers) trace.guestMisuse.publish({ device, what, text });
}

export const errorText = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/**
 * Runs `action`, a request to the provider during a guest's access or during close: a failure becomes a note. Returns
 * whether it succeeded.
 */
export function attempt(device: string, what: NoteSubject, action: () => void): boolean {
  try {
    action();
    return true;
  } catch (error) {
    note(device, what, errorText(error));
    return false;
  }
}

/** `16 KiB`: exact, in the largest unit without a fraction. */
export function formatBytes(bytes: bigint | number): string {
  let value = BigInt(bytes);
  for (const unit of ['bytes', 'KiB', 'MiB', 'GiB']) {
    if (value === 0n || value % 1024n !== 0n) return `${value} ${unit}`;
    value /= 1024n;
  }
  return `${value} TiB`;
}

/** `1 vector`, `2 vectors` */
export const plural = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`;
