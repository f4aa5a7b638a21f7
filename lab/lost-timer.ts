/** What Linux's RCU prints, every 21 s, about a CPU whose timer never fires: QEMU's emulation has lost the interrupt. */
const COMPLAINT = /rcu: \S+ kthread timer wakeup didn't happen for \d+ jiffies!/g;

/** A CPU that only waited for its host catches up after one of them. */
const MOST_COMPLAINTS = 2;

/** Whether a CPU has lost its timer for good: what waits for it never ends. @param console what Linux has printed */
export const hasLostTimer = (console: string): boolean =>
  (console.match(COMPLAINT)?.length ?? 0) > MOST_COMPLAINTS;
