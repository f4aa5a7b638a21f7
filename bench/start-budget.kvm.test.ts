import { expect, test } from 'vitest';
import { CLI } from '../vmm/testing/machines.js';
import { startBudget } from './start-budget.js';

test('a start reaches its milestones in the order of the budget', () => {
  const phases = Object.entries(startBudget(CLI, ['--append', 'halt-test']));
  expect(phases.length).toBe(7);
  expect(phases.filter(([, ms]) => !(ms > 0))).toEqual([]);
});

test('a run that fails has no budget', () => {
  expect(() => startBudget(CLI, ['--kernel', '/nonexistent'])).toThrow(/ended with 64: tsvisor: /);
});
