/** A size that a page asks for, and what the guest of a served virtio-gpu sees of it: by HTTP, vfio-user and the device itself. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { PCI_COMMAND_MEMORY } from '../../devices/pci/pci-regs.js';
import { preferredMode } from '../../devices/vgpu/edid.js';
import { EDID_BLOB_AT } from '../../devices/vgpu/edid-region.js';
import { EDID_BYTES } from '../../devices/vgpu/spec.js';
import { GuestDriver, GuestMemory } from '../../devices/virtio-net/testing/guest.js';
import { Scope } from '../../sys/scope.js';
import type { VfioDeviceOps } from '../../vfio/driver.js';
import { groupsOf } from '../../vfio/interfaces.js';
import {
  type DeviceFile,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_SUBTYPE_GFX_EDID,
  VFIO_REGION_TYPE_GFX,
  VFIO_TYPE1v2_IOMMU,
} from '../../vfio/uapi.js';
import { userProvider } from '../../vfio/user/client/provider.js';
import { noEvents } from '../../vfio/user/testing/peer.js';
import { DeviceServer } from '../device-server.js';
import { View } from './view.js';

const folder = mkdtempSync(join(tmpdir(), 'served-size-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The client's device, and a driver's view of it. */
class Client implements Disposable {
  readonly #scope: Scope;
  readonly file: DeviceFile;
  readonly driver: GuestDriver;

  constructor(path: string) {
    using scope = new Scope();
    const provider = userProvider(noEvents);
    const device = scope.own(provider.resolve(`vfio-user:${path}`, {}));
    const groups = groupsOf(provider);
    const container = scope.own(groups.openContainer());
    const group = scope.own(groups.openGroup(device.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    const file = scope.own(group.getDeviceFd(device.name));
    const at = (index: number, offset: number) => file.getRegionInfo(index).offset + offset;
    const ops: Pick<VfioDeviceOps, 'read' | 'write'> = {
      read: (index, offset, data) => file.read(at(index, offset), data),
      write: (index, offset, data) => file.write(at(index, offset), data),
    };
    this.driver = new GuestDriver(ops as VfioDeviceOps, scope.own(new GuestMemory()));
    this.driver.configWrite(4, 2, PCI_COMMAND_MEMORY);
    this.file = file;
    this.#scope = scope.move();
  }

  /** The modes that the EDIDs prefer, in the order of the screens. */
  modes() {
    const count = this.file.getInfo().numRegions - VFIO_PCI_NUM_REGIONS;
    return Array.from({ length: count }, (_, i) => this.file.getRegionInfo(VFIO_PCI_NUM_REGIONS + i))
      .filter(({ capabilities }) =>
        capabilities.some(
          (each) =>
            each.id === VFIO_REGION_INFO_CAP_TYPE &&
            each.type === VFIO_REGION_TYPE_GFX &&
            each.subtype === VFIO_REGION_SUBTYPE_GFX_EDID,
        ),
      )
      .map(({ offset }) => {
        const block = new Uint8Array(EDID_BYTES);
        this.file.read(offset + EDID_BLOB_AT, block);
        return preferredMode(block);
      });
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

test('the guest of a served virtio-gpu gets an event and the EDID of the size that its page asked for, and none of a refused one', async () => {
  const path = join(folder, 'card');
  let isReady = () => {};
  const ready = new Promise<void>((resolve) => {
    isReady = resolve;
  });
  await using server = DeviceServer.start(
    { address: 'virtio-gpu', options: { heads: '2' }, path },
    { ready: () => isReady() },
  );
  await Promise.race([ready, server.finished]);
  await using view = await View.start(server, { port: 0 });
  const put = async (body: object): Promise<{ status: number; text: string }> => {
    const reply = await fetch(`${view.url}v1/devices/0/size`, { method: 'PUT', body: JSON.stringify(body) });
    return { status: reply.status, text: await reply.text() };
  };
  const size = { width: 1264, height: 656, head: 1 };
  const early = await put(size);
  expect([early.status, early.text]).toEqual([
    404,
    expect.stringContaining('no client has opened a display'),
  ]);

  using client = new Client(path);
  const { driver } = client;
  expect(await server.displays()).toMatchObject([
    { slot: 0, largest: { width: 4095, height: 4095 } },
    { slot: 0, head: 1, largest: { width: 4095, height: 4095 } },
  ]);
  expect((await put({ width: 4096, height: 656 })).status).toBe(400);
  expect((await put({ ...size, head: 2 })).status).toBe(404);
  expect(driver.deviceConfig(0, 4), 'VIRTIO_GPU_EVENT_DISPLAY').toBe(0);
  expect(await put(size)).toEqual({ status: 204, text: '' });
  expect(driver.deviceConfig(0, 4)).toBe(1);
  expect(client.modes()).toEqual([
    { xres: 1024, yres: 768 },
    { xres: 1264, yres: 656 },
  ]);
});
