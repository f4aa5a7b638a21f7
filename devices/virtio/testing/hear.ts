import { onTestFinished } from 'vitest';
import { type GuestMisuseEvent, trace, type VfioEvent } from '../../../sys/trace.js';

/** Until the test's end, `tell` gets what devices tell, and `note` what guests do wrong. */
export function hearDevices(tell: (event: VfioEvent) => void, note: (event: GuestMisuseEvent) => void): void {
  trace.vfio.subscribe(tell);
  trace.guestMisuse.subscribe(note);
  onTestFinished(() => {
    trace.vfio.unsubscribe(tell);
    trace.guestMisuse.unsubscribe(note);
  });
}
