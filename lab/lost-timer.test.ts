import { expect, test } from 'vitest';
import { hasLostTimer } from './lost-timer.js';

const complaint = (at: number) =>
  `[  ${at}.541] rcu: rcu_preempt kthread timer wakeup didn't happen for ${at} jiffies! g10021 f0x0 ->state=0x402\n`;
const stall = '[  85.5] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n';

test('a CPU has lost its timer when RCU complains of it again and again, not when it was only late', () => {
  expect(hasLostTimer('')).toBe(false);
  expect(hasLostTimer(stall.repeat(9) + complaint(84) + complaint(105))).toBe(false);
  expect(hasLostTimer([84, 105, 126].map((at) => stall + complaint(at)).join(''))).toBe(true);
});
