/** The list of rules in docs/conformance.md: TSVISOR_UPDATE_CONFORMANCE=1 writes it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { SERVER_RULES } from './check-server.js';

const GUIDE = 'docs/conformance.md';
const HEADING = '## The rules\n\n';

const row = (...cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

test('docs/conformance.md lists the rules as they are', () => {
  const rows = SERVER_RULES.map(({ name, section, sent, expected }) =>
    row(`\`${name}\``, section, sent, expected),
  );
  const table = [row('rule', 'section', 'sent', 'expected'), '|---|---|---|---|', ...rows, ''].join('\n');
  const text = readFileSync(GUIDE, 'utf8');
  const [before = '', after] = text.split(HEADING);
  if (process.env.TSVISOR_UPDATE_CONFORMANCE === '1') writeFileSync(GUIDE, before + HEADING + table);
  else expect(after, 'TSVISOR_UPDATE_CONFORMANCE=1 npx vitest run vfio/user/conformance/rules').toBe(table);
});
