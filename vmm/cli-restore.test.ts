/** What the command line chooses anew of a saved machine. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RUN } from './cli-help.js';
import { restoreRequest } from './cli-restore.js';
import { parseCommandLine } from './command-line.js';
import { parseConfig } from './config.js';
import { ConfigError } from './config-error.js';
import { savedConfig } from './snapshot/config.js';

const SAVED = {
  memory: '16777216',
  devices: [
    { address: 'virtio-net', options: { net: 'responder', mtu: '1400' }, slot: 3 },
    { address: 'virtio-net', options: {}, slot: 4 },
    { address: 'mtty-2', options: {}, slot: 4, function: 1 },
  ],
};

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'restore-'));
  writeFileSync(join(folder, 'config.json'), JSON.stringify(SAVED));
});
afterEach(() => rmSync(folder, { recursive: true }));

const request = (...args: string[]) => restoreRequest(folder, parseCommandLine(RUN, args), undefined);

test('--device SLOT adds options to the saved device there, and leaves the others as they were', () => {
  const { changes, input } = request(
    '--device',
    '3,mac=52:54:00:00:00:07,net=passt',
    '--device',
    '4.1,line=pty',
  );
  expect(changes.deviceOptions).toEqual({
    '3': { mac: '52:54:00:00:00:07', net: 'passt' },
    '4.1': { line: 'pty' },
  });
  expect(input.devices).toEqual([
    { address: 'virtio-net', options: { net: 'passt', mtu: '1400', mac: '52:54:00:00:00:07' }, slot: 3 },
    { address: 'virtio-net', options: {}, slot: 4 },
    { address: 'mtty-2', options: { line: 'pty' }, slot: 4, function: 1 },
  ]);
  expect(request('--device', '4.0,net=passt').changes.deviceOptions).toEqual({ '4': { net: 'passt' } });
});

test('a slot that is empty is refused with those that are not, and so is a mixture with whole devices', () => {
  const problems = (...args: string[]) => {
    try {
      request(...args);
      return [];
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      return error.problems.map(({ path, text }) => `${path}: ${text}`);
    }
  };
  expect(problems('--device', '9,net=passt')).toEqual([
    '--device 9: the saved machine has no device there: its devices are in 3, 4, 4.1',
  ]);
  expect(problems('--device', '3,net=passt', '--device', 'mtty-2')[0]).toMatch(/^--device mtty-2: .*by slot/);
});

test('how KVM is used is chosen anew for each run', () => {
  const { changes, input } = request('--ffi', 'koffi', '--dirty-ring', '1024');
  expect(changes).toEqual({ ffi: 'koffi', dirtyRing: 1024 });
  expect(input).toEqual({ ...SAVED, ffi: 'koffi', dirtyRing: 1024 });
  const config = parseConfig({ ffi: 'koffi', dirtyRing: 1024, vcpus: 2 });
  const saved = savedConfig(config, []);
  expect(saved.vcpus).toBe(2);
  for (const name of ['ffi', 'dirtyRing', 'trace', 'sandbox']) expect(saved).not.toHaveProperty(name);
});

test('whole devices replace all of the saved ones', () => {
  const { changes } = request('--device', 'mtty-2,slot=3');
  expect(changes.deviceOptions).toBeUndefined();
  expect(changes.devices).toEqual([{ address: 'mtty-2', options: {}, slot: 3 }]);
});
