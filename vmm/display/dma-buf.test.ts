import { expect, test } from 'vitest';
import { checkHeaders } from '../../sys/testing/header-check.js';
import * as dmaBuf from './dma-buf.js';

test('the structure and the request of linux/dma-buf.h are as the C compiler reads them', ({ skip }) => {
  const check = checkHeaders({ headers: ['linux/dma-buf.h'], tables: [dmaBuf] });
  if (check.unavailable !== undefined) skip(check.unavailable);
  expect(check.differences).toEqual([]);
  expect(check.compared).toBeGreaterThanOrEqual(2);
});
