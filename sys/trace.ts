import { type Channel, channel } from 'node:diagnostics_channel';

/**
 * Every trace channel of the package. Publishing is guarded by `hasSubscribers`, so that a channel nobody listens to
 * costs a nanosecond. Channels are per thread: subscribe in the thread whose events you want.
 */
export const trace = {
  /** `{ vcpu, exit }` for each exit that is handled in user space. */
  exit: channel('tsvisor:kvm.exit'),
  /** `{ bus, address, bytes, isWrite }`: an access that no device answered. */
  unclaimed: channel('tsvisor:bus.unclaimed'),
  /** `{ device, what, ... }`: a guest did something no driver should. */
  guestMisuse: channel('tsvisor:guest.misuse'),
  /** `{ device, address, bytes, isWrite, value }`: trapped accesses to an assigned device. */
  region: channel('tsvisor:vfio.region'),
  /** `{ what, ... }`: group and kvm association, open, close, maps, interrupts. */
  vfio: channel('tsvisor:vfio'),
  /** `{ what, peer, text }`: what a vfio-user peer was refused, or did that it should not. */
  vfioUser: channel('tsvisor:vfio.user'),
  /** `{ what, gpa, bytes }`: changes of the guest's memory map. */
  memory: channel('tsvisor:memory'),
} satisfies Record<string, Channel>;

/** Name of a trace channel: a key of {@link trace}. */
export type TraceName = keyof typeof trace;
