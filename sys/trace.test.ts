import { channel } from 'node:diagnostics_channel';
import { expect, test } from 'vitest';
import { TraceChannel, trace, type VfioEvent } from './trace.js';

test('every channel is known to diagnostics_channel under its name', () => {
  const names = Object.values(trace).map(({ name }) => name);
  expect(names).toEqual([
    'tsvisor:kvm.exit',
    'tsvisor:bus.unclaimed',
    'tsvisor:guest.misuse',
    'tsvisor:vfio.region',
    'tsvisor:vfio',
    'tsvisor:vfio.user',
    'tsvisor:memory',
    'tsvisor:hostile.mutation',
    'tsvisor:kvm.door',
  ]);
  const seen: unknown[] = [];
  const listen = (message: unknown) => seen.push(message);
  channel('tsvisor:vfio').subscribe(listen);
  trace.vfio.publish({ what: 'open_group', group: 3 });
  channel('tsvisor:vfio').unsubscribe(listen);
  expect(seen).toEqual([{ what: 'open_group', group: 3 }]);
});

test('a channel has subscribers between subscribe and unsubscribe, and calls them in that order', () => {
  const one = new TraceChannel<{ readonly count: number }>('tsvisor:test');
  const seen: string[] = [];
  const first = ({ count }: { readonly count: number }) => void seen.push(`first ${count}`);
  const second = ({ count }: { readonly count: number }) => void seen.push(`second ${count}`);
  expect(one.hasSubscribers).toBe(false);
  one.subscribe(first);
  one.subscribe(second);
  expect(one.hasSubscribers).toBe(true);
  one.publish({ count: 1 });
  one.unsubscribe(first);
  one.publish({ count: 2 });
  one.unsubscribe(second);
  expect(one.hasSubscribers).toBe(false);
  one.publish({ count: 3 });
  expect(seen).toEqual(['first 1', 'second 1', 'second 2']);
});

test('a channel takes events of its own type only, which the compiler says', () => {
  const seen: VfioEvent[] = [];
  const listen = (event: VfioEvent) => void seen.push(event);
  trace.vfio.subscribe(listen);
  // @ts-expect-error a vfio event has no `vm`
  trace.vfio.publish({ what: 'set_kvm', vm: 'kvm 1' });
  // @ts-expect-error what happens is not optional
  trace.vfio.publish({ text: 'something' });
  trace.vfio.unsubscribe(listen);
  expect(seen).toHaveLength(2);
});
