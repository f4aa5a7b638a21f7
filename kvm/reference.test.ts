import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CountedReference } from './reference.js';

test('the last put destroys once, and no reference can be taken after it', () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 40 }), (steps) => {
      let destroyed = 0;
      const reference = new CountedReference(() => destroyed++);
      let held = 1;
      for (const isGet of steps) {
        if (isGet) {
          expect(reference.getUnlessDying()).toBe(held > 0);
          if (held > 0) held++;
        } else if (held > 0) {
          reference.put();
          held--;
        } else {
          expect(() => reference.put()).toThrowError(RangeError);
        }
        expect(reference.isAlive).toBe(held > 0);
        expect(destroyed).toBe(held > 0 ? 0 : 1);
      }
    }),
  );
});

test('no reference can be taken while the VM is being destroyed', () => {
  let gotOne: boolean | undefined;
  const reference: CountedReference = new CountedReference(() => {
    gotOne = reference.getUnlessDying();
  });
  reference.put();
  expect(gotOne).toBe(false);
});
