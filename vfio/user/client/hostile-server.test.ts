/** A server whose answers are wrong now and then: the client ends in errors of its own, and nothing is left behind. */
import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { iova } from '../../../sys/address.js';
import { SysError } from '../../../sys/error.js';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory, liveMappings, type SharedMemory } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../feature.js';
import { type DeviceFile, VFIO_REGION_INFO_FLAG_MMAP, VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import { KICK, MEMORY, MSIX, REGISTERS } from '../testing/card.js';
import { noEvents, startPeer } from '../testing/peer.js';
import { userProvider } from './provider.js';

/** Answers in all; `npm run nightly` and CI take more. */
const FRAMES = Number(process.env.TSVISOR_FUZZ_FRAMES ?? 20_000);
const SEED = Number(process.env.TSVISOR_FUZZ_SEED ?? Date.now() & 0x7fff_ffff);
/** A server that says nothing costs this long each time. */
const TIMEOUT_S = '0.03';

const GET_MIGRATION = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION;
const SET_STATE = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;

const openFds = (): number => readdirSync('/proc/self/fd').length;

/** One life of a client: everything that a machine does with a device. @throws SysError where the server went wrong */
function live(path: string, memory: SharedMemory, bell: Fd): void {
  using scope = new Scope();
  const provider = userProvider(noEvents);
  const found = scope.own(provider.resolve(`vfio-user:${path}`, { timeout: TIMEOUT_S, trust: 'on' }));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(found.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  container.mapDma({
    flags: 3,
    vaddr: memory.mapping.hva,
    iova: iova(0n),
    size: BigInt(memory.mapping.bytes),
  });
  const device = scope.own(group.getDeviceFd(found.name));
  const { numRegions, numIrqs } = device.getInfo();
  for (let index = 0; index < Math.min(numRegions, 9); index++) useRegion(device, index);
  for (let index = 0; index < Math.min(numIrqs, 5); index++) device.getIrqInfo(index);
  device.setIrqs({ index: MSIX, flags: 0x24, start: 0, count: 1, data: [bell.number] });
  for (let i = 0; i < 40; i++) device.read(device.getRegionInfo(REGISTERS).offset + 4 * i, new Uint8Array(4));
  device.write(device.getRegionInfo(REGISTERS).offset + KICK, new Uint8Array(8));
  move(device);
  device.reset();
}

/** Its state to itself. */
function move(device: DeviceFile): void {
  const setState = (deviceState: number) => device.deviceFeature(SET_STATE, { deviceState }).data;
  device.deviceFeature(GET_MIGRATION);
  using out = setState(VFIO_DEVICE_STATE_STOP_COPY);
  const data = new Uint8Array(8192);
  const got = out?.read(data);
  using into = setState(VFIO_DEVICE_STATE_RESUMING);
  into?.write(data.subarray(0, got));
  setState(VFIO_DEVICE_STATE_RUNNING);
}

function useRegion(device: DeviceFile, index: number): void {
  const { size, offset, flags } = device.getRegionInfo(index);
  device.getRegionIoFds(index);
  if (size > 0) device.read(offset, new Uint8Array(Math.min(size, 64)));
  if (index !== MEMORY || (flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) return;
  using mapped = device.mmap(offset, 4096);
  // An answer that was changed may map other bytes, but never such that are not there.
  expect(mapped.view.slice(0, 4096)).toHaveLength(4096);
  mapped.view.slice(0, 1)[0];
}

test(`${FRAMES} answers of a server that gets some wrong (seed ${SEED}): no throw but SysError, no hang, nothing left`, async () => {
  const before = openFds();
  {
    await using peer = await startPeer({ seed: SEED });
    using memory = createSharedMemory('fuzz', 65_536);
    using bell = Fd.eventfd('fuzz');
    const [fds, mapped] = [openFds(), liveMappings()];
    let lives = 0;
    while (peer.counts().messages < FRAMES) {
      try {
        live(peer.path, memory, bell);
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
      }
      expect(liveMappings()).toBe(mapped);
      // The peer's own descriptors come and go beside ours; its end is looked at behind it.
      if (++lives % 200 === 0) {
        expect(openFds()).toBeLessThan(fds + 20);
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    const { messages, changed } = peer.counts();
    console.log(`${messages} answers, ${changed} of them changed, ${lives} clients, seed ${SEED}`);
  }
  expect(openFds()).toBe(before);
}, 600_000);
