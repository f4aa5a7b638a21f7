import { afterEach, beforeEach, expect } from 'vitest';
import { liveMappings } from '../mapping.js';
import { openFds } from './open-fds.js';
import { checkThrownValues } from './thrown-values.js';

checkThrownValues();

// Every test must close the descriptors and mappings that it opened.
let fds: string[] = [];
let mappings = 0;

beforeEach(() => {
  fds = openFds();
  mappings = liveMappings();
});

afterEach(() => {
  const before = new Set(fds);
  expect(
    openFds().filter((fd) => !before.has(fd)),
    'descriptors left open by this test',
  ).toEqual([]);
  expect(liveMappings(), 'mappings left open by this test').toBe(mappings);
});
