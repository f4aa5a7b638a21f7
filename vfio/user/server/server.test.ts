/** Clients that come and go: what is told of them, and what they find. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { Scope } from '../../../sys/scope.js';
import { connectUnix } from '../../../sys/unix-socket.js';
import type { AssignableDevice, VfioProvider } from '../../provider.js';
import { Channel } from '../channel.js';
import { encodeCommand, encodeReply } from '../message.js';
import { VFIO_USER_DEVICE_RESET as RESET, VFIO_USER_VERSION } from '../protocol.js';
import { hostCard } from '../testing/card.js';
import { QEMU_CAPABILITIES } from '../testing/raw-client.js';
import { encodeVersion } from '../version.js';
import { openForClient, VfioUserServer } from './server.js';

let scope: Scope;
let path: string;
let told: string[];
beforeEach(() => {
  scope = new Scope();
  const folder = mkdtempSync(join(tmpdir(), 'vfio-user-'));
  scope.defer(() => rmSync(folder, { recursive: true, force: true }));
  path = join(folder, 'server.sock');
  told = [];
});
afterEach(() => scope[Symbol.dispose]());

const tell = (text: string) => void told.push(text);
const connect = () => scope.own(new Channel(connectUnix(path)));
const hello = encodeCommand(
  1,
  VFIO_USER_VERSION,
  encodeVersion({ major: 0, minor: 2, capabilities: QEMU_CAPABILITIES }, false),
);

test('a client is served until it disconnects, and the next one is, too', () => {
  const host = scope.own(hostCard());
  const server = scope.own(new VfioUserServer({ path, open: host.open, tell }));
  server.step();
  expect([server.hasClient, told]).toEqual([false, []]);
  for (let i = 1; i <= 2; i++) {
    const client = connect();
    server.step();
    expect(server.hasClient).toBe(true);
    expect(told).toEqual([`a client has connected: process ${process.pid}, user ${process.getuid?.()}`]);
    client.send(hello);
    client.send(encodeCommand(2, RESET));
    server.step();
    server.step();
    expect(host.card.resets).toBe(i);
    expect([client.receive(false)?.id, client.receive(false)?.id]).toEqual([1, 2]);
    client[Symbol.dispose]();
    server.step();
    expect(server.hasClient).toBe(false);
    expect(told.splice(0)[1]).toBe('the client has disconnected, after 2 commands');
  }
});

test('a thread that waits for the descriptor by itself steps without a wait, until there is nothing more', () => {
  const host = scope.own(hostCard());
  const server = scope.own(new VfioUserServer({ path, open: host.open, tell }));
  const listening = server.fd;
  expect(server.step(false)).toBe(false);
  const client = connect();
  expect([server.step(false), server.hasClient, server.step(false)]).toEqual([true, true, false]);
  expect(server.fd).not.toBe(listening);
  client.send(hello);
  client.send(encodeCommand(2, RESET));
  expect([server.step(false), server.step(false), server.step(false)]).toEqual([true, true, false]);
  expect(host.card.resets).toBe(1);
  client[Symbol.dispose]();
  expect([server.step(false), server.hasClient, server.fd]).toEqual([true, false, listening]);
});

test('a client that breaks the protocol is disconnected, which is told with the reason', () => {
  const host = scope.own(hostCard());
  const server = scope.own(new VfioUserServer({ path, open: host.open, tell }));
  const client = connect();
  server.step();
  client.send(encodeReply(1, RESET));
  server.step();
  expect(server.hasClient).toBe(false);
  expect(told[1]).toMatch(
    /^the client was disconnected: receive on .*EPROTO\n.*without a request.*, after 0 commands$/,
  );
  expect(() => client.receive()).toThrowError(/ECONNRESET/);
});

test('a client that is refused is told of once for each reason in a row', () => {
  const host = scope.own(hostCard());
  let problem: string | undefined = 'busy';
  const open = () => {
    if (problem === undefined) return host.open();
    throw new SysError({ call: 'open', target: problem, errno: errno.EBUSY });
  };
  const server = scope.own(new VfioUserServer({ path, open, tell }));
  const visit = (reason?: string) => {
    problem = reason;
    const client = connect();
    server.step();
    if (reason !== undefined) expect(() => client.receive()).toThrowError(/ECONNRESET/);
    client[Symbol.dispose]();
    if (server.hasClient) server.step();
    return told.splice(0).map((text) => text.split(/[:,]/)[0]);
  };
  expect(visit('busy')).toEqual(['a client was refused']);
  expect(visit('busy')).toEqual([]);
  expect(visit('other')).toEqual(['a client was refused']);
  expect(visit()).toEqual(['a client has connected', 'the client has disconnected']);
  expect(visit('other')).toEqual(['a client was refused']);
});

test('the end of a server disconnects its client, and removes its socket', () => {
  const host = scope.own(hostCard());
  const server = new VfioUserServer({ path, open: host.open });
  const client = connect();
  server.step();
  expect(existsSync(path)).toBe(true);
  server[Symbol.dispose]();
  expect([server.hasClient, existsSync(path)]).toEqual([false, false]);
  expect(() => client.receive()).toThrowError(/ECONNRESET/);
});

/** A provider that keeps what it is asked for. */
function provider(status: number, fails: string | undefined = undefined) {
  const calls: string[] = [];
  const call = (name: string) => {
    calls.push(name);
    if (name === fails) throw new SysError({ call: name, target: 'provider', errno: errno.EBUSY });
  };
  const closing = (name: string) => ({ [Symbol.dispose]: () => call(`close ${name}`) });
  const device = closing('device');
  const container = { ...closing('container'), setIommu: (type: number) => call(`setIommu ${type}`) };
  const group = {
    ...closing('group'),
    target: 'group 5',
    getStatus: () => status,
    setContainer: () => call('setContainer'),
    unsetContainer: () => call('unsetContainer'),
    getDeviceFd: (name: string) => {
      call(`getDeviceFd ${name}`);
      return device;
    },
  };
  const groups = {
    openContainer: () => container,
    openGroup: (number: number) => {
      call(`openGroup ${number}`);
      return group;
    },
  };
  const it = { name: 'fake', groups } as unknown as VfioProvider;
  return {
    calls,
    open: () => openForClient(it, { name: 'card', group: 5 } as AssignableDevice),
    device,
    container,
  };
}

test('a device is opened through its group, and closed in reverse order', () => {
  const { calls, open, device, container } = provider(1);
  const served = open();
  expect([served.device, served.container]).toEqual([device, container]);
  expect(calls.splice(0)).toEqual(['openGroup 5', 'setContainer', 'setIommu 3', 'getDeviceFd card']);
  served[Symbol.dispose]();
  expect(calls).toEqual(['close device', 'unsetContainer', 'close group', 'close container']);
});

test('a group that is not viable is EPERM, and nothing stays open', () => {
  const { calls, open } = provider(2);
  expect(open).toThrowError(/^VFIO_GROUP_GET_STATUS on group 5: EPERM/);
  expect(calls).toEqual(['openGroup 5', 'close group', 'close container']);
});

test('a device that cannot be opened leaves its group free', () => {
  const { calls, open } = provider(1, 'getDeviceFd card');
  expect(open).toThrowError(/EBUSY/);
  expect(calls.slice(-3)).toEqual(['unsetContainer', 'close group', 'close container']);
});
