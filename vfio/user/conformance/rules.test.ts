/** The lists of rules in docs/conformance.md: TSVISOR_UPDATE_CONFORMANCE=1 writes them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { CLIENT_RULES } from './check-client.js';
import { SERVER_RULES } from './check-server.js';
import type { VfioUserRuleResult } from './report.js';

const GUIDE = 'docs/conformance.md';
const HEADING = '## The rules for servers\n\n';
const NEXT_HEADING = '\n## The rules for clients\n\n';

const row = (...cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

const tableOf = (
  rules: readonly Pick<VfioUserRuleResult, 'name' | 'section' | 'sent' | 'expected'>[],
): string => {
  const rows = rules.map(({ name, section, sent, expected }) => row(`\`${name}\``, section, sent, expected));
  return [row('rule', 'section', 'sent', 'expected'), '|---|---|---|---|', ...rows, ''].join('\n');
};

test('docs/conformance.md lists the rules as they are', () => {
  const tables = tableOf(SERVER_RULES) + NEXT_HEADING + tableOf(CLIENT_RULES);
  const text = readFileSync(GUIDE, 'utf8');
  const [before = '', after] = text.split(HEADING);
  if (process.env.TSVISOR_UPDATE_CONFORMANCE === '1') writeFileSync(GUIDE, before + HEADING + tables);
  else expect(after, 'TSVISOR_UPDATE_CONFORMANCE=1 npx vitest run vfio/user/conformance/rules').toBe(tables);
});
