/** Our client in a thread of its own, for what plays a server to it: it blocks while it waits for an answer. */
import { parentPort } from 'node:worker_threads';
import { iova } from '../../../sys/address.js';
import { SysError } from '../../../sys/error.js';
import { EventThreadClient, startEventThread } from '../../../sys/event-thread.js';
import { Fd } from '../../../sys/fd.js';
import { createInboxControl, Inbox } from '../../../sys/inbox.js';
import { createSharedMemory, Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import {
  type ContainerFile,
  type DeviceFile,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_TYPE1v2_IOMMU,
} from '../../uapi.js';
import { userProvider } from '../client/provider.js';

/** What the thread is asked for: to attach, or to end that. */
export type ClientRequest =
  | { readonly what: 'attach'; readonly path: string; readonly timeoutMs: number }
  | { readonly what: 'detach' }
  | { readonly what: 'end' };

const [READ, WRITE] = [VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE];
const [INTX, MSIX] = [0, 2];
const [EVENTFD_TRIGGER, NONE_TRIGGER, BOOL_TRIGGER] = [0x24, 0x21, 0x22];
const VECTORS = 16;
const MEMORY_BYTES = 1 << 20;
const TURN_MS = 5;

/** What does not concern the server is skipped where a server refuses it. */
function attempt(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}

/** Maps memory of each kind: with a file, for reading only, for writing only, and of this process alone. */
function mapAll(scope: Scope, container: ContainerFile): void {
  const shared = scope.own(createSharedMemory('guest', MEMORY_BYTES)).mapping;
  const own = scope.own(Mapping.anonymous(MEMORY_BYTES));
  shared.view.slice(0, MEMORY_BYTES).fill(0x11);
  own.view.slice(0, MEMORY_BYTES).fill(0x22);
  const map = (memory: Mapping, at: bigint, flags: number, bytes = MEMORY_BYTES) =>
    attempt(() => container.mapDma({ flags, vaddr: memory.hva, iova: iova(at), size: BigInt(bytes) }));
  map(shared, 0n, READ | WRITE);
  map(own, 0x1000_0000n, READ, MEMORY_BYTES / 2);
  map(own, 0x2000_0000n, WRITE, MEMORY_BYTES / 4);
  map(shared, 0x3000_0000n, READ, 4096);
}

/** Uses each region and each kind of interrupts. */
function use(scope: Scope, device: DeviceFile): void {
  const { numRegions, numIrqs } = device.getInfo();
  for (let index = 0; index < numRegions; index++) {
    attempt(() => {
      const { size, offset } = device.getRegionInfo(index);
      const data = new Uint8Array(Math.min(size, 4096));
      if (size === 0) return;
      device.read(offset, data);
      if (index < 6) device.write(offset, data.subarray(0, 256));
      device.getRegionIoFds(index);
      attempt(() => scope.own(device.mmap(offset + 0x4000, 0x4000)));
    });
  }
  for (let index = 0; index < numIrqs; index++) attempt(() => device.getIrqInfo(index));
  const bells = Array.from({ length: VECTORS }, (_, i) => scope.own(Fd.eventfd(`vector ${i}`)).number);
  const set = (index: number, flags: number, data: readonly number[]) =>
    attempt(() => device.setIrqs({ index, flags, start: 0, count: data.length, data }));
  set(INTX, EVENTFD_TRIGGER, bells.slice(0, 1));
  set(INTX, BOOL_TRIGGER, [1]);
  set(INTX, NONE_TRIGGER, []);
  set(MSIX, EVENTFD_TRIGGER, bells);
  attempt(() => device.reset());
}

const inbox = new Inbox(createInboxControl());
const thread = startEventThread(inbox.control);
const provider = userProvider(new EventThreadClient(thread.link, inbox));
let scope = new Scope();

/** As an attach does: if it fails, all that it had is closed. */
function attach(path: string, timeoutMs: number): void {
  try {
    const found = scope.own(provider.resolve(`vfio-user:${path}`, { timeout: `${timeoutMs / 1000}` }));
    const container = scope.own(provider.groups.openContainer());
    const group = scope.own(provider.groups.openGroup(found.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    mapAll(scope, container);
    use(scope, scope.own(group.getDeviceFd(found.name)));
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    detach();
  }
}

function detach(): void {
  scope[Symbol.dispose]();
  scope = new Scope();
}

const turns = setInterval(() => inbox.drain(), TURN_MS);
parentPort?.on('message', async (request: ClientRequest) => {
  if (request.what === 'attach') attach(request.path, request.timeoutMs);
  else detach();
  if (request.what !== 'end') return parentPort?.postMessage('done');
  clearInterval(turns);
  thread.stop();
  await thread.ended;
  process.exit(0);
});
