import { trace } from '../../sys/trace.js';

/** Publishes one step of attaching a device on `trace.vfio`: the lines of the attach log. */
export function attachStep(text: string): void {
  if (trace.vfio.hasSubscribers) trace.vfio.publish({ what: 'attach', text });
}
