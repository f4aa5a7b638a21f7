/** The kit of tsvisor/testing with a device whose data path is in the event thread. */
import { expect, test } from 'vitest';
import { bootGuest } from '../devices/testing/index.js';
import { createVirtioNetDriver } from '../devices/virtio-net/index.js';
import { PolledEventThread } from './assign/polled-event-thread.js';

test("Linux's virtio_net pings through a NIC of this process", {
  timeout: 90_000,
}, async () => {
  await using eventThread = await PolledEventThread.start();
  await using guest = await bootGuest({
    devices: [{ driver: createVirtioNetDriver(), options: { net: 'responder' } }],
    modules: ['virtio_pci', 'virtio_net'],
    eventThread,
  });
  expect(await guest.run('modprobe virtio_pci && modprobe virtio_net')).toEqual({ status: 0, output: '' });
  const address = 'ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up';
  expect(await guest.run(`${address} && ping -c 3 -w 10 10.0.2.2`)).toMatchObject({
    status: 0,
    output: expect.stringContaining('3 packets transmitted, 3 packets received'),
  });
});
