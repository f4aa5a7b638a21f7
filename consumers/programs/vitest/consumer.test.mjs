import { parseSize } from 'tsvisor';
import { Fd } from 'tsvisor/vfio';
import { expect, test } from 'vitest';

test('a descriptor is opened and closed', () => {
  const fd = Fd.eventfd('bell');
  expect(fd.isOpen).toBe(true);
  fd[Symbol.dispose]();
  expect(fd.isOpen).toBe(false);
  expect(parseSize('1K')).toBe(1024n);
});
