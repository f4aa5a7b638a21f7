import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { hasOwnerEnded, ownerText } from './owner.js';

/** The same text as {@link ownerText}, for another process id or start time. */
const changed = (field: number, value: string): string =>
  ownerText()
    .split(' ')
    .map((word, at) => (at === field ? value : word))
    .join(' ');

describe('the owner of a file', () => {
  test('is this process while it runs', () => {
    expect(ownerText()).toMatch(/^pid:\[\d+\] \d+ \d+$/);
    expect(hasOwnerEnded(ownerText())).toBe(false);
  });

  test('has ended if its process id is free, or belongs to a process that started at another time', async () => {
    const child = spawn('true');
    await once(child, 'exit');
    expect(hasOwnerEnded(changed(1, `${child.pid}`))).toBe(true);
    expect(hasOwnerEnded(changed(2, '1'))).toBe(true);
  });

  test('in another PID namespace cannot be seen, and counts as running', () => {
    expect(hasOwnerEnded(changed(0, 'pid:[1]'))).toBe(false);
  });

  test('that was killed before it wrote its text has ended', () => {
    expect(hasOwnerEnded('')).toBe(true);
    expect(hasOwnerEnded('4711')).toBe(true);
  });
});
