import { describe, expect, test } from 'vitest';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { VfioCore } from '../../vfio/core/core.js';
import { type ConformanceTarget, vfioConformance } from '../../vfio/testing/index.js';
import { createMttyDriver } from './driver.js';
import { start } from './line-task.js';
import { Card } from './testing/card.js';

const TASK = new URL('test:line-task');

test.each([
  [{ port0: 'tty' }, 'port0: "tty" is none of loopback, pty or unix:PATH'],
  [{ port1: 'unix:' }, 'port1: a unix socket needs its path'],
  [{ port0: `unix:/${'x'.repeat(107)}` }, 'port0: a unix socket.s path has at most 107 bytes'],
  [{ speed: '9600', port0: '' }, 'unknown option speed: expected port0=, port1=; port0: ""'],
])('options %j are EINVAL, and the hint says why', (options, hint) => {
  expect(() => new Card(options)).toThrowError(new RegExp(`EINVAL\\n.*${hint}`));
});

test('a card with one port has no option for a second', () => {
  expect(() => new Card({ port1: 'pty' }, 'mtty-1')).toThrowError(
    /unknown option port1; did you mean port0\? Expected port0=/,
  );
});

test('all cards share 24 ports: each takes its number from every type, and gives it back', () => {
  using thread = new InlineEventThread(new Map([[TASK.href, start]]));
  using core = new VfioCore();
  using _driver = core.registerVendorDriver(createMttyDriver(TASK), { eventThread: thread });
  const { mdevs } = core;
  const left = () => mdevs.types.map((type) => [type.name, mdevs.availableInstances(type)]);
  expect(left()).toEqual([
    ['mtty-1', 24],
    ['mtty-2', 12],
  ]);
  const one = core.run(mdevs.create('mtty-1'));
  expect(left()).toEqual([
    ['mtty-1', 23],
    ['mtty-2', 11],
  ]);
  for (let i = 0; i < 11; i++) core.run(mdevs.create('mtty-2'));
  expect(left()).toEqual([
    ['mtty-1', 1],
    ['mtty-2', 0],
  ]);
  expect(() => core.run(mdevs.create('mtty-2'))).toThrowError(/ENOSPC/);
  core.run(mdevs.remove(one.uuid));
  expect(left()).toEqual([
    ['mtty-1', 2],
    ['mtty-2', 1],
  ]);
});

describe('a card keeps the rules of the uAPI', () => {
  const names = vfioConformance({} as ConformanceTarget).map(({ name }) => name);
  test.each(names)('%s', (name) => {
    using scope = new Scope();
    const thread = scope.own(new InlineEventThread(new Map([[TASK.href, start]])));
    const core = scope.own(new VfioCore());
    scope.own(core.registerVendorDriver(createMttyDriver(TASK), { eventThread: thread }));
    const memory = scope.own(Mapping.anonymous(0x10000));
    const target = { provider: core.provider, address: 'mtty-2', memory, unusedGroup: 9999 };
    const rule = vfioConformance(target).find((each) => each.name === name);
    rule?.run();
  });
});

test('a card that cannot be made takes no port', () => {
  using scope = new Scope();
  const thread = scope.own(new InlineEventThread(new Map([[TASK.href, start]])));
  const driver = createMttyDriver(TASK);
  const type = driver.types[1]!;
  expect(() => driver.create(type, 'uuid', { port0: 'unix:/nowhere' }, { eventThread: thread })).toThrowError(
    /ENOENT/,
  );
  expect(driver.availableInstances?.(type)).toBe(12);
});
