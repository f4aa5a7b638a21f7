import { constants, readSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { EventThreadClient, startEventThread } from '../../sys/event-thread.js';
import { signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { createInboxControl, Inbox } from '../../sys/inbox.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import type { OpenDevice } from '../../vfio/driver.js';
import { recordTrace } from '../testing/fake-ports.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { createMttyDriver } from './driver.js';
import { until } from './testing/until.js';

const TRIGGER = { index: 0, flags: 0x24, start: 0, count: 1 } as const;
const UNMASK = { index: 0, flags: 0x14, start: 0, count: 1 } as const;

test('in a real event thread a terminal talks to the guest, and the unmasking of the pin does not need the machine thread', async () => {
  const control = createInboxControl();
  const thread = startEventThread(control);
  try {
    using scope = new Scope();
    using steps = recordTrace(trace.vfio);
    const inbox = new Inbox(control);
    const eventThread = new EventThreadClient(thread.link, inbox);
    const vendor = createMttyDriver();
    const { ops } = scope.own(vendor.create(vendor.types[0]!, 'uuid', { port0: 'pty' }, { eventThread }));
    const [irq, unmask] = [scope.own(Fd.eventfd('irq')), scope.own(Fd.eventfd('unmask'))];
    ops.openDevice({} as OpenDevice);
    scope.defer(() => ops.closeDevice());
    ops.setIrqs({ ...TRIGGER, data: [irq.number] });
    ops.setIrqs({ ...UNMASK, data: [unmask.number] });
    const path = String(steps.events[0]?.text).replace('port 0 is ', '');
    using terminal = Fd.open(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
    ops.write(0, 1, Uint8Array.of(1));
    writeSync(terminal.number, 'x');
    let interrupts = 0;
    await until(() => {
      if (inbox.hasNews) inbox.drain();
      interrupts += taken(irq);
      return interrupts === 1;
    });
    signalEventfd(unmask.number);
    await until(() => taken(irq) === 1);
    const byte = new Uint8Array(1);
    ops.read(0, 0, byte);
    expect(byte[0]).toBe(0x78);
    ops.write(0, 0, Uint8Array.of(0x79));
    await until(() => {
      try {
        return readSync(terminal.number, byte) === 1;
      } catch {
        return false;
      }
    });
    expect(byte[0]).toBe(0x79);
  } finally {
    thread.stop();
    await thread.ended;
  }
});
