import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { createMessageSignals, MessageSignals } from './message-signals.js';

let scope: Scope;
let signals: MessageSignals;
beforeEach(() => {
  scope = new Scope();
  signals = new MessageSignals(createMessageSignals());
});
afterEach(() => scope[Symbol.dispose]());
const eventfds = (count: number) => Array.from({ length: count }, () => scope.own(Fd.eventfd()));
const numbers = (fds: readonly Fd[]) => fds.map(({ number }) => number);

test('a message without an eventfd is pending, and leaves once it has one', () => {
  const [a, b] = eventfds(2) as [Fd, Fd];
  signals.retarget([a.number, -1]);
  signals.send(1);
  signals.send(1);
  expect(signals.pendingBits(0)).toBe(0b10);
  signals.retarget([a.number, b.number]);
  expect([a, b].map(taken)).toEqual([0, 1]);
  expect(signals.pendingBits(0)).toBe(0);
  expect(signals.sentByMessage).toEqual([0, 1]);
});

test('a message that is masked is pending until it is not, unless the mask is ignored', () => {
  const fds = eventfds(32);
  signals.retarget(numbers(fds));
  signals.maskBits = 0x8000_0001;
  signals.send(31);
  signals.send(0, true);
  expect(taken(fds[31] as Fd)).toBe(0);
  expect(taken(fds[0] as Fd)).toBe(1);
  expect(signals.pendingBits(0)).toBe(0x8000_0000);
  signals.maskBits = 0;
  expect(taken(fds[31] as Fd)).toBe(1);
});

test('what is sent while messages are off, and what is no message, is not kept for later', () => {
  const [fd] = eventfds(1) as [Fd];
  signals.send(0);
  for (const message of [-1, 2048, 2 ** 31, Number.NaN]) signals.send(message);
  signals.retarget([fd.number]);
  expect(taken(fd)).toBe(0);
  expect(signals.sent).toBe(0);
});

test('whatever two threads do, each message that was sent leaves once when nothing keeps it, and none otherwise', () => {
  const count = 40;
  const action = fc.oneof(
    fc.record({ what: fc.constant('send' as const), message: fc.nat(count) }),
    fc.record({ what: fc.constant('mask' as const), message: fc.nat(31) }),
    fc.record({ what: fc.constant('hold' as const), message: fc.nat(1) }),
    fc.record({ what: fc.constant('retarget' as const), message: fc.nat(count) }),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(action, fc.boolean()), { maxLength: 60 }), (actions) => {
      using inner = new Scope();
      const fds = Array.from({ length: count }, () => inner.own(Fd.eventfd()));
      const buffer = createMessageSignals();
      const threads = [new MessageSignals(buffer), new MessageSignals(buffer)] as const;
      const model = { mask: 0, isHeld: false, enabled: 0, pending: new Set<number>() };
      for (const [{ what, message }, isFirst] of actions) {
        const thread = threads[isFirst ? 0 : 1];
        if (what === 'send') {
          thread.send(message);
          if (model.enabled > 0) model.pending.add(message);
        } else if (what === 'mask') {
          model.mask ^= 1 << message;
          thread.maskBits = model.mask;
        } else if (what === 'hold') {
          model.isHeld = message === 1;
          thread.isHeld = model.isHeld;
        } else {
          model.enabled = message;
          thread.retarget(message === 0 ? undefined : fds.slice(0, message).map(({ number }) => number));
          if (message === 0) model.pending.clear();
        }
        for (const [i, fd] of fds.entries()) {
          const isMasked = i < 32 && (model.mask & (1 << i)) !== 0;
          const leaves = model.pending.has(i) && i < model.enabled && !isMasked && !model.isHeld;
          if (leaves) model.pending.delete(i);
          expect(taken(fd), `message ${i} after ${what} ${message}`).toBe(leaves ? 1 : 0);
        }
      }
    }),
    { numRuns: 60 },
  );
});
