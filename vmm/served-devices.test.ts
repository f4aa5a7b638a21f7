import { expect, test } from 'vitest';
import { ServedDevices } from './served-devices.js';

test('with nothing to serve, a step waits, as the thread would spin', () => {
  using served = new ServedDevices({ trustsClient: false, tell: () => {} });
  const start = performance.now();
  served.step();
  // Of the 100 ms that it waits: however busy the machine is, a wait is not too short.
  expect(performance.now() - start).toBeGreaterThan(50);
});
