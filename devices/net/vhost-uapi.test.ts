import { expect, test } from 'vitest';
import { checkHeaders } from '../../sys/testing/header-check.js';
import * as uapi from './vhost-uapi.js';

test('structures, requests and constants of vhost are those of the installed header', (context) => {
  const { unavailable, compared, differences } = checkHeaders({
    headers: ['linux/vhost.h'],
    tables: [uapi],
  });
  if (unavailable !== undefined) context.skip(unavailable);
  expect(differences).toEqual([]);
  expect(compared).toBeGreaterThan(40);
});
