import { expect, test } from 'vitest';
import { checkHeaders } from '../../sys/testing/header-check.js';
import * as bootparam from './bootparam.js';

test('every structure and constant matches asm/bootparam.h', ({ skip }) => {
  const check = checkHeaders({ headers: ['asm/bootparam.h'], tables: [bootparam] });
  if (check.unavailable !== undefined) skip(check.unavailable);
  for (const row of check.newer) console.info(`not compared: ${row}`);
  expect(check.differences).toEqual([]);
  expect(check.compared).toBeGreaterThan(150);
});
