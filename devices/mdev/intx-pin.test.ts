import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { createIntxPin, IntxPin } from './intx-pin.js';

test('whatever the two threads do, it interrupts when it is asserted and nothing holds it back, and is masked by that', () => {
  const names = ['isAsserted', 'isMasked', 'isDisabled', 'isHeld'] as const;
  const action = fc.record({
    name: fc.constantFrom(...names),
    value: fc.boolean(),
    isFirst: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      using eventfd = Fd.eventfd();
      const buffer = createIntxPin();
      const threads = [new IntxPin(buffer), new IntxPin(buffer)] as const;
      threads[0].fd = eventfd.number;
      const model = { isAsserted: false, isMasked: false, isDisabled: false, isHeld: false };
      let interrupts = 0;
      for (const { name, value, isFirst } of actions) {
        threads[isFirst ? 0 : 1][name] = value;
        if (name === 'isDisabled' && value !== model.isDisabled) model.isMasked = value;
        if (name !== 'isMasked' || value || !model.isDisabled) model[name] = value;
        const fires = model.isAsserted && !model.isMasked && !model.isDisabled && !model.isHeld;
        if (fires) model.isMasked = true;
        expect(taken(eventfd)).toBe(fires ? 1 : 0);
        interrupts += fires ? 1 : 0;
      }
      expect(threads[1].interrupts).toBe(interrupts);
    }),
  );
});

test('INTx disable masks the pin, its end unmasks it whatever the user did, and UNMASK in between is ignored', () => {
  using eventfd = Fd.eventfd();
  const pin = new IntxPin(createIntxPin());
  pin.fd = eventfd.number;
  pin.isMasked = true;
  pin.isDisabled = true;
  pin.isAsserted = true;
  pin.isDisabled = false;
  expect(taken(eventfd), 'the user’s mask is gone').toBe(1);
  pin.isDisabled = true;
  pin.isMasked = false;
  expect(taken(eventfd)).toBe(0);
  pin.isDisabled = false;
  expect(taken(eventfd), 'still asserted').toBe(1);
  pin.isDisabled = false;
  expect(taken(eventfd), 'no change').toBe(0);
});

test('a pin that nobody listens to keeps its interrupt for who comes', () => {
  using eventfd = Fd.eventfd();
  const pin = new IntxPin(createIntxPin());
  pin.isAsserted = true;
  expect(pin.interrupts).toBe(0);
  pin.fd = eventfd.number;
  expect(taken(eventfd)).toBe(1);
});
