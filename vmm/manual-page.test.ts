import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { DEVICES } from './cli-device-help.js';
import { COMMANDS } from './cli-help.js';
import { manualPage } from './manual-page.js';

const page = manualPage(COMMANDS, '1.2.3');

test('every command, option and device has its paragraph', () => {
  const plain = page.replaceAll('\\-', '-').replaceAll(/\\f[BIR]/g, '');
  expect(plain).toMatch(/^\.TH TSVISOR 1 "" "tsvisor 1\.2\.3"/);
  for (const { name, options } of COMMANDS) {
    expect(plain).toContain(`.SS "tsvisor ${name}`);
    for (const option of options)
      expect(plain).toMatch(new RegExp(`^\\.TP\\n(-. ?, )?--${option.name}\\b`, 'm'));
  }
  for (const { help } of DEVICES) expect(plain).toContain(help[0]);
});

test('no line of text begins as a request, and every request is one that man pages have', () => {
  for (const line of page.split('\n'))
    if (/^[.']/.test(line)) expect(line).toMatch(/^\.(TH|SH|SS|TP|PP|nf|fi)\b/);
});

test('groff formats it without a warning', ({ skip }) => {
  const { stdout, stderr, error } = spawnSync('groff', ['-man', '-Tutf8', '-ww', '-z'], {
    input: page,
    encoding: 'utf8',
  });
  if (error !== undefined) skip('groff is not installed (Debian: apt-get install groff-base)');
  expect([stdout, stderr]).toEqual(['', '']);
});

test('mandoc finds nothing wrong with it but the missing date', ({ skip }) => {
  const args = ['-man', '-Tlint', '-Wwarning'];
  const { stdout, error } = spawnSync('mandoc', args, { input: page, encoding: 'utf8' });
  if (error !== undefined) skip('mandoc is not installed (Debian: apt-get install mandoc)');
  // A build has no date of its own, and the same sources make the same page.
  expect(stdout.split('\n').filter((line) => line !== '' && !/missing date/.test(line))).toEqual([]);
});
