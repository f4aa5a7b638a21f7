/** `npm run consumers`: packs the package, installs it as a dependency, and tests it on every supported Node. */
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { buildClient } from './api-client.js';
import { installNodes } from './nodes.js';
import { entriesOf, packageProblems } from './package-files.js';
import { problemWith, rowsOf, runRow } from './rows.js';
import { inPairs } from './run.js';
import { createSite, PROJECT } from './site.js';
import { checkTypes } from './types.js';

const NAME_WIDTH = 52;

function hasKvm(): boolean {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return true;
  } catch (error) {
    const text = `rows that need /dev/kvm are left out: ${(error as Error).message}`;
    if ((process.env.TSVISOR_REQUIRED_TIERS ?? '').split(',').includes('kvm')) throw new Error(text);
    console.log(text);
    return false;
  }
}

const indented = (text: string): string => text.trimEnd().replace(/^/gm, '      ');

async function main(): Promise<number> {
  const kvm = hasKvm();
  const failures: string[] = [];
  const nodes = await installNodes(join(PROJECT, 'consumers/.cache'));
  using site = await createSite();
  const entries = entriesOf(site.tsvisor);
  console.log(`entries: ${entries.join(' ')}`);

  const problems = packageProblems(site.files, site.tsvisor);
  console.log(
    `${'files of the package'.padEnd(NAME_WIDTH)}${problems.length === 0 ? site.files.length : 'FAIL'}`,
  );
  failures.push(...problems);

  for (const { name, ended } of [...(await checkTypes(site, entries)), ...(await buildClient(site))]) {
    console.log(`${name.padEnd(NAME_WIDTH)}${ended.status === 0 ? 'ok' : 'FAIL'}`);
    if (ended.status !== 0) failures.push(`${name}:\n${indented(ended.output)}`);
  }

  console.log(
    `\n${'exit status on Node'.padEnd(NAME_WIDTH)}${nodes.map(({ version }) => version.padEnd(10)).join('')}`,
  );
  for (const row of rowsOf(site, entries, kvm)) {
    if (row.needsKvm === true && !kvm) continue;
    process.stdout.write(row.name.padEnd(NAME_WIDTH));
    const results = await inPairs(nodes, (node) => runRow(row, node));
    for (const [i, ended] of results.entries()) {
      const problem = problemWith(row, ended);
      process.stdout.write((problem === undefined ? `${ended.status}` : 'FAIL').padEnd(10));
      if (problem !== undefined)
        failures.push(`${row.name}, Node ${nodes[i]?.version}: ${problem}\n${indented(ended.output)}`);
    }
    process.stdout.write('\n');
  }
  for (const failure of failures) console.log(`\n${failure}`);
  return failures.length === 0 ? 0 : 1;
}

process.exitCode = await main();
