import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import type { NetBackend } from '../net/index.js';
import { createVirtioNetDriver } from './driver.js';
import { createQueueTask } from './queue-task.js';
import { Workbench } from './testing/workbench.js';

function problem(options: Record<string, string>): string {
  try {
    using _bench = new Workbench(options);
    return 'none';
  } catch (error) {
    expect(error).toBeInstanceOf(SysError);
    expect((error as SysError).code).toBe('EINVAL');
    return (error as SysError).hint ?? '';
  }
}

test('a wrong option is EINVAL, and the hint lists all of them', () => {
  expect(problem({ net: 'bridge:br0' })).toContain('no back-end "bridge": expected fake or responder');
  expect(problem({ net: 'responder:what=1' })).toContain('unknown option "what=1"');
  for (const mac of ['', '52:54:00:12:34', '01:00:5e:00:00:01', '00:00:00:00:00:00', '52:54:00:12:34:5g']) {
    expect(problem({ mac })).toContain('mac:');
  }
  for (const mtu of ['', '67', '65536', '1e3', '-1']) expect(problem({ mtu })).toContain('mtu:');
  const all = problem({ speed: '10', mac: 'x', mtu: 'y' });
  expect(all).toMatch(
    /unknown option speed: expected net=, mac=, mtu=, offloads=, queues=, pcap=; mac: .*; mtu: /,
  );
  expect(problem({ offloads: 'yes' })).toBe('offloads: yes is neither on nor off');
});

test('without mac= the address is a unicast one, local, that follows from the UUID', () => {
  using one = new Workbench();
  using two = new Workbench();
  expect(one.instance.mac).toEqual(two.instance.mac);
  expect([...one.instance.mac.subarray(0, 3)]).toEqual([0x52, 0x54, 0x00]);
});

test('a back-end that cannot be opened fails the creation with its own error, and leaves nothing open', () => {
  const broken: NetBackend = {
    name: 'broken',
    validate: () => undefined,
    open: () => {
      throw new SysError({ call: 'TUNSETIFF', target: 'tap x', errno: errno.EPERM, hint: 'ask root' });
    },
  };
  const task = new URL('test:queue-task');
  using thread = new InlineEventThread(new Map([[task.href, createQueueTask([broken])]]));
  const driver = createVirtioNetDriver({ backends: [broken], task });
  const create = () => driver.create(driver.types[0]!, 'uuid', {}, { eventThread: thread });
  expect(create).toThrowError(/^TUNSETIFF on tap x: EPERM\n {2}hint: ask root$/);
});

test('regions are configuration space, the MSI-X page and the registers, none of which can be mapped', () => {
  using bench = new Workbench();
  const { ops } = bench.instance;
  expect(ops.getInfo()).toEqual({ flags: 3, numRegions: 9, numIrqs: 5 });
  const infos = Array.from({ length: 9 }, (_, index) => ops.getRegionInfo(index));
  expect(infos.map(({ size }) => size)).toEqual([0, 0x1000, 0, 0, 0x4000, 0, 0, 256, 0]);
  expect(infos.map(({ flags }) => flags)).toEqual([0, 3, 0, 0, 3, 0, 0, 3, 0]);
});
