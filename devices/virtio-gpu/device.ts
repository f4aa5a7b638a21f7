import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import type { Fd } from '../../sys/fd.js';
import type { OpenDevice } from '../../vfio/driver.js';
import { DRM_PLANE_TYPE_PRIMARY } from '../../vfio/drm.js';
import { type GfxPlaneInfo, type GfxPlaneQuery, VFIO_PCI_NUM_REGIONS } from '../../vfio/uapi.js';
import type { TypedRegion } from '../mdev/pci-regions.js';
import type { Registers } from '../mdev/region-access.js';
import { littleEndian } from '../pci/config-space.js';
import { edidRegion, type Resolution } from '../vgpu/edid-region.js';
import { gfxPlane } from '../vgpu/gfx-plane.js';
import type { RemoteQueue } from '../virtio/remote-queue.js';
import type { TypeState } from '../virtio/saved-state.js';
import { TRANSPORT_FEATURES } from '../virtio/spec.js';
import type { ChainDirection } from '../virtio/split-queue.js';
import { TransportState, type TransportStateBuffer } from '../virtio/transport-state.js';
import { TurnFunction } from '../virtio/turn-function.js';
import { CONTROL_COMMANDS, type CommandTarget, CURSOR_COMMANDS, runCommand } from './commands.js';
import { Head } from './head.js';
import type { GpuOptions } from './options.js';
import { PixelPool } from './pixel-pool.js';
import { Resources } from './resources.js';
import { gpuState } from './saved-state.js';
import { type GpuCounter, SHAPE } from './shared-state.js';
import {
  CONFIG_BYTES,
  CONFIG_EVENTS_CLEAR,
  CONFIG_EVENTS_READ,
  CONFIG_NUM_SCANOUTS,
  CONTROLQ,
  CURSOR_BYTES,
  HEADER_BYTES,
  HEADER_CTX_ID,
  HEADER_FENCE_ID,
  HEADER_FLAGS,
  MOST_CHAIN_BYTES,
  VIRTIO_GPU_EVENT_DISPLAY,
  VIRTIO_GPU_F_EDID,
  VIRTIO_GPU_FLAG_FENCE,
  VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER,
  VIRTIO_GPU_RESP_ERR_UNSPEC,
} from './spec.js';

const VIRTIO_ID_GPU = 16;
const PCI_CLASS_DISPLAY_OTHER = 0x0380;
/** The region in which all planes lie: the cursors of the heads, then the pool. */
const PLANES_REGION = VFIO_PCI_NUM_REGIONS;
/** VFIO_REGION_TYPE_PCI_VENDOR_TYPE with virtio's vendor. */
const PLANES_TYPE = 0x8000_1af4;
const PLANES_SUBTYPE = 1;
/** Of a number that grows and stays exact. */
const MOST_BEGINNING = 2 ** 47;

/** Parts of a device, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioGpuParts extends GpuOptions {
  readonly shared: TransportStateBuffer;
  /** The doorbell task. */
  readonly task: EventTask;
  /** One per queue. */
  readonly doorbells: readonly Fd[];
}

/** A virtio-gpu PCI function with 2D commands. Its pictures are copies in the host's memory, which a display maps. Machine thread only. */
export class VirtioGpuDevice extends TurnFunction<GpuCounter> implements Disposable {
  readonly #pool: PixelPool;
  readonly #resources: Resources;
  readonly #heads: readonly Head[];
  readonly #target: CommandTarget;
  readonly #memoryBytes: number;
  /** @see GfxPlaneInfo.drawn */
  #drawn = Math.floor(Math.random() * MOST_BEGINNING);

  /** @throws SysError ENOMEM */
  constructor({ shared, task, doorbells, memoryBytes, heads: count, mode }: VirtioGpuParts) {
    const name = 'virtio-gpu';
    const state = new TransportState(shared, SHAPE, 1);
    const heads = Array.from(
      { length: count },
      (_, index) => new Head(`${name}, head ${index}`, index, mode),
    );
    const pool = new PixelPool(name, memoryBytes, count * CURSOR_BYTES);
    // The regions are there before this object is.
    const owner: { follow: (head: Head) => void } = { follow: () => {} };
    super({
      name,
      identity: { type: VIRTIO_ID_GPU, pciClass: PCI_CLASS_DISPLAY_OTHER },
      features: { offered: VIRTIO_GPU_F_EDID | TRANSPORT_FEATURES, requirements: [] },
      state,
      task,
      doorbells,
      config: configOf(state, count),
      typed: [
        planesRegion(pool),
        ...heads.map((head) =>
          edidRegion(
            () => head.screen,
            () => owner.follow(head),
          ),
        ),
      ],
    });
    owner.follow = (head) => {
      if (head.follow()) this.#tellDisplays();
    };
    this.#heads = heads;
    this.#pool = pool;
    this.#memoryBytes = memoryBytes;
    this.#resources = new Resources(pool);
    const common = () => this.common;
    this.#target = {
      resources: this.#resources,
      heads,
      access: this.access,
      cursorBytes: ({ cursorAt }) => pool.bytes.subarray(cursorAt, cursorAt + CURSOR_BYTES),
      get hasEdid() {
        return (common().features & VIRTIO_GPU_F_EDID) !== 0n;
      },
      count: (counter, by) => state.count(counter, by),
    };
  }

  /** Resources that the driver has now. */
  get resourceCount(): number {
    return this.#resources.count;
  }

  /** @see VirtioGpuInstance.resize */
  resize(head: number, mode: Resolution): void {
    const found = this.#heads[head];
    if (found === undefined) throw this.#noHead('resize', head, errno.ENODEV);
    found.resize(mode);
    this.#tellDisplays();
  }

  override openDevice(open: OpenDevice): void {
    for (const head of this.#heads) head.restore();
    super.openDevice(open);
  }

  get gfxHeads(): number {
    return this.#heads.length;
  }

  queryGfxPlane(query: GfxPlaneQuery): GfxPlaneInfo {
    const index = query.head ?? 0;
    const head = this.#heads[index];
    if (head === undefined) throw this.#noHead('VFIO_DEVICE_QUERY_GFX_PLANE', index, errno.EINVAL);
    const plane = gfxPlane(this.name, PLANES_REGION, query, head.plane, head.cursorPlane);
    return query.drmPlaneType === DRM_PLANE_TYPE_PRIMARY ? { ...plane, drawn: this.#drawn } : plane;
  }

  #noHead(call: string, head: number, code: number): SysError {
    const hint = `it has ${this.#heads.length}, from 0 on`;
    return new SysError({ call, target: `${this.name}, head ${head}`, errno: code, hint });
  }

  /** Configuration change: events_read says what of. 5.7.4 */
  #tellDisplays(): void {
    this.state.setFlags(this.state.flags | VIRTIO_GPU_EVENT_DISPLAY);
    if (this.common.isDriverOk) this.call({ kind: 'config' });
  }

  protected override directionOf(): ChainDirection {
    return 'both';
  }

  protected override serve(queue: RemoteQueue): boolean {
    while (!this.isTurnOver && (queue.fetch() || queue.wantDoorbells())) {
      while (!this.isTurnOver && queue.next(0, MOST_CHAIN_BYTES)) this.#answer(queue);
      if (queue.fault !== undefined) return false;
      this.publish(queue);
    }
    return this.isTurnOver;
  }

  /** Does the command of the latest chain. */
  #answer(queue: RemoteQueue): void {
    const { head, buffers, bytes } = queue;
    const given = queue.take();
    const room = buffers.reduce((sum, buffer) => sum + buffer.bytes, 0);
    this.state.count('commands');
    this.#drawn++;
    if (given.length < HEADER_BYTES || bytes > MOST_CHAIN_BYTES) {
      this.state.count('errors');
      this.misuse(`queue ${queue.index}: a command of ${given.length} bytes in a chain of ${bytes}`);
      queue.push(0, head);
      return;
    }
    const commands = queue.index === CONTROLQ ? CONTROL_COMMANDS : CURSOR_COMMANDS;
    let { type, data } = runCommand(commands, this.#target, given);
    if (data !== undefined && HEADER_BYTES + data.length > room)
      [type, data] = [VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER, undefined];
    if (type >= VIRTIO_GPU_RESP_ERR_UNSPEC) this.state.count('errors');
    // A driver that wants no response, as Linux's of the cursor, gives no room.
    if (room < HEADER_BYTES) {
      queue.push(0, head);
      return;
    }
    const response = new Uint8Array(HEADER_BYTES + (data?.length ?? 0));
    fillHeader(new DataView(response.buffer), type, given);
    if (data !== undefined) response.set(data, HEADER_BYTES);
    queue.write(buffers, response);
    queue.push(response.length, head);
  }

  protected override stopQueues(): void {
    super.stopQueues();
    this.#drawn++;
    for (const head of this.#heads) {
      head.scanout = undefined;
      head.cursor = undefined;
    }
    this.#resources.clear();
    this.#pool.bytes.fill(0, 0, this.#heads.length * CURSOR_BYTES);
    this.state.setFlags(0);
  }

  protected override get typeState(): TypeState {
    const { state } = this;
    return gpuState({
      ...{ name: this.name, heads: this.#heads, resources: this.#resources },
      memoryBytes: this.#memoryBytes,
      cursorBytes: this.#target.cursorBytes,
      events: { get: () => state.flags, set: (events) => state.setFlags(events) },
      restored: () => this.#drawn++,
    });
  }

  /** Frees the pictures. The device must be unregistered. */
  [Symbol.dispose](): void {
    this.#pool[Symbol.dispose]();
  }
}

/** Fenced commands are done when they are answered, in order: there is nothing to wait for. 5.7.6.7 */
function fillHeader(view: DataView, type: number, given: Uint8Array): void {
  const command = new DataView(given.buffer, given.byteOffset);
  view.setUint32(0, type, true);
  if ((command.getUint32(HEADER_FLAGS, true) & VIRTIO_GPU_FLAG_FENCE) === 0) return;
  view.setUint32(HEADER_FLAGS, VIRTIO_GPU_FLAG_FENCE, true);
  view.setBigUint64(HEADER_FENCE_ID, command.getBigUint64(HEADER_FENCE_ID, true), true);
  view.setUint32(HEADER_CTX_ID, command.getUint32(HEADER_CTX_ID, true), true);
}

/** Where a display reads the planes. */
const planesRegion = ({ memory, bytes }: PixelPool): TypedRegion => ({
  type: PLANES_TYPE,
  subtype: PLANES_SUBTYPE,
  size: bytes.length,
  memory,
});

/** Device configuration structure: events_read is in the shared state's flags, as its generation changes with it. */
function configOf(state: TransportState<GpuCounter>, heads: number): Registers {
  const bytes = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(CONFIG_NUM_SCANOUTS, heads, true);
  return {
    read(offset, length) {
      view.setUint32(CONFIG_EVENTS_READ, state.flags, true);
      return littleEndian(bytes, offset, length);
    },
    write(offset, length, value) {
      if (offset === CONFIG_EVENTS_CLEAR && length === 4) state.setFlags(state.flags & ~value);
    },
  };
}
