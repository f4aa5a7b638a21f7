/** The help: what it lists, and that it fits. */
import { afterAll, describe, expect, test } from 'vitest';
import { DEVICE_HELP } from './cli-device-help.js';
import { COMMANDS, OVERVIEW, RUN, SERVE } from './cli-help.js';
import { helpText } from './command-line.js';
import type { ConfigError } from './config-error.js';
import { checkDevices } from './device-check.js';
import { tsvisor } from './testing/machines.js';
import { openProviders } from './testing/providers.js';

const { providers, drivers, core } = openProviders();
afterAll(() => core[Symbol.dispose]());

describe('the help', () => {
  const texts = COMMANDS.map((command) => helpText(command, DEVICE_HELP));
  test.each([OVERVIEW, ...texts])('has no line over 80 columns', (text) => {
    for (const line of text.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80);
  });

  test('lists every device type and every option of each', () => {
    const text = helpText(RUN, DEVICE_HELP);
    const types = drivers.flatMap((driver) => driver.types);
    for (const { name } of types) expect(text).toContain(name);
    const names = types.flatMap(({ name }) => optionNames(name));
    const host = optionNames('0000:99:00.0').concat(optionNames('vfio-user:/x'));
    expect(names.length).toBeGreaterThan(9);
    expect(host.length).toBeGreaterThan(9);
    for (const name of [...names, ...host, 'slot', 'interface']) expect(text).toContain(`${name}=`);
  });

  test('of run is not that of serve', () => {
    expect(helpText(SERVE)).toContain('--trust-client');
    expect(helpText(RUN)).not.toContain('--trust-client');
    expect(helpText(RUN)).toContain('--kernel');
    expect(helpText(SERVE)).not.toContain('--kernel');
  });
});

/** As the error for an unknown option lists them. */
function optionNames(address: string): string[] {
  try {
    checkDevices(providers, [{ address, options: { 'no-such': '1' } }]);
  } catch (error) {
    const text = (error as ConfigError).problems[0]?.text ?? '';
    const listed = text.split(/expected |there are:/)[1] ?? '';
    return [...listed.matchAll(/(?:^|, |\n {4})([\w-]+)(?:=|: )/g)].map(([, name = '']) => name);
  }
  return [];
}

test.each([
  [['-h'], /^tsvisor: assigns devices/],
  [['--help'], /^tsvisor: assigns devices/],
  [['help'], /^tsvisor: assigns devices/],
  [['help', 'serve'], /^usage: tsvisor serve DEVICE/],
  [['-V'], /^tsvisor \d+\.\d+\.\d+\n$/],
  [['--version'], /^tsvisor \d+\.\d+\.\d+\n$/],
  [['run', '-h'], /^usage: tsvisor run \[options\]/],
  [['run', '--help', '--cpus', 'many'], /^usage: tsvisor run \[options\]/],
  [['serve', '--help'], /^usage: tsvisor serve DEVICE/],
])('tsvisor %j prints it, and ends with 0', (args, text) => {
  const { stdout, stderr, status } = tsvisor(args);
  expect(stdout).toMatch(text);
  expect([stderr, status]).toEqual(['', 0]);
});
