import { expect, test } from 'vitest';
import { RUN } from './cli-help.js';
import { incomingRequest } from './cli-incoming.js';
import { parseCommandLine } from './command-line.js';

const request = (address: string, ...args: string[]) =>
  incomingRequest(address, parseCommandLine(RUN, args), undefined);

test('what is chosen anew for a machine that comes is its serial ports, and its devices by slot or whole', () => {
  expect(request('unix:/run/in')).toEqual({ address: 'unix:/run/in', changes: { serial: ['observer'] } });
  expect(request('tcp:host:1', '--serial', 'pty', '--device', '3,net=passt', '--no-reboot').changes).toEqual({
    ...{ serial: ['pty'], reboot: false },
    deviceOptions: { '3': { net: 'passt' } },
  });
  expect(request('tcp:host:1', '--dirty-ring', '4096').changes).toEqual({
    serial: ['observer'],
    dirtyRing: 4096,
  });
  expect(request('tcp:host:1', '--device', 'mtty-2,slot=3').changes.devices).toEqual([
    { address: 'mtty-2', options: {}, slot: 3 },
  ]);
});

test('what comes with the machine is refused, and so is what is no address', () => {
  for (const option of [['--memory', '1G'], ['--net', 'passt'], ['--restore', '/saved'], ['--sandbox']])
    expect(() => request('unix:/run/in', ...option)).toThrowError(/comes with a machine that is received/);
  expect(() => request('nowhere')).toThrowError(/--incoming: 'nowhere' is neither unix:PATH nor tcp/);
});
