import { trace } from '../../sys/trace.js';

/** Reports one step of attaching a device: the owner of a machine shows these to a person. */
export function attachStep(text: string): void {
  if (trace.vfio.hasSubscribers) trace.vfio.publish({ what: 'attach', text });
}
