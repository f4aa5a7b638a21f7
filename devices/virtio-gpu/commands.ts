/** The commands of a driver (5.7.6), done with the resources and heads of a device. */
import { isErrno } from '../../sys/error.js';
import type { RemoteAccess } from '../virtio/remote-queue.js';
import { Backing } from './backing.js';
import type { Head } from './head.js';
import { isWithin, type Rect, type Resource, type Resources } from './resources.js';
import type { GpuCounter } from './shared-state.js';
import {
  CURSOR_SIDE,
  DISPLAY_BYTES,
  EDID_BYTES,
  HEADER_BYTES,
  MEM_ENTRY_BYTES,
  MOST_BACKING_ENTRIES,
  PIXEL_BYTES,
  VIRTIO_GPU_CMD_GET_DISPLAY_INFO,
  VIRTIO_GPU_CMD_GET_EDID,
  VIRTIO_GPU_CMD_MOVE_CURSOR,
  VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING,
  VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
  VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING,
  VIRTIO_GPU_CMD_RESOURCE_FLUSH,
  VIRTIO_GPU_CMD_RESOURCE_UNREF,
  VIRTIO_GPU_CMD_SET_SCANOUT,
  VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D,
  VIRTIO_GPU_CMD_UPDATE_CURSOR,
  VIRTIO_GPU_MAX_SCANOUTS,
  VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER,
  VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID,
  VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID,
  VIRTIO_GPU_RESP_ERR_UNSPEC,
  VIRTIO_GPU_RESP_OK_DISPLAY_INFO,
  VIRTIO_GPU_RESP_OK_EDID,
  VIRTIO_GPU_RESP_OK_NODATA,
} from './spec.js';

/** What commands are done with. */
export interface CommandTarget {
  readonly resources: Resources;
  readonly heads: readonly Head[];
  /** Accesses the guest's memory. @throws SysError */
  readonly access: RemoteAccess;
  /** Where a head's cursor has its pixels. */
  readonly cursorBytes: (head: Head) => Uint8Array;
  /** Whether VIRTIO_GPU_F_EDID has been negotiated. */
  readonly hasEdid: boolean;
  readonly count: (counter: GpuCounter, by?: number) => void;
}

/** A response: its type, and for some what follows the header. */
export interface Response {
  readonly type: number;
  readonly data?: Uint8Array;
}

interface Command {
  /** Its length in bytes, or the least. */
  readonly bytes: number;
  /** Returns the response's type, or all of it. */
  readonly run: (target: CommandTarget, view: DataView) => number | Response;
}

const u32 = (view: DataView, at: number): number => view.getUint32(HEADER_BYTES + at, true);
const rectAt = (view: DataView): Rect => ({
  x: u32(view, 0),
  y: u32(view, 4),
  width: u32(view, 8),
  height: u32(view, 12),
});

/** Does something with the resource that a command names at `at`. */
const withResource =
  (at: number, act: (target: CommandTarget, resource: Resource, view: DataView) => number) =>
  (target: CommandTarget, view: DataView): number => {
    const resource = target.resources.get(u32(view, at));
    return resource === undefined ? VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID : act(target, resource, view);
  };

/** The commands of the control queue. */
export const CONTROL_COMMANDS: ReadonlyMap<number, Command> = new Map<number, Command>([
  [VIRTIO_GPU_CMD_GET_DISPLAY_INFO, { bytes: HEADER_BYTES, run: ({ heads }) => displayInfo(heads) }],
  [VIRTIO_GPU_CMD_GET_EDID, { bytes: HEADER_BYTES + 8, run: edidOf }],
  [
    VIRTIO_GPU_CMD_RESOURCE_CREATE_2D,
    {
      bytes: HEADER_BYTES + 16,
      run: ({ resources }, view) => resources.create(u32(view, 0), u32(view, 4), u32(view, 8), u32(view, 12)),
    },
  ],
  [
    VIRTIO_GPU_CMD_RESOURCE_UNREF,
    {
      bytes: HEADER_BYTES + 8,
      run: withResource(0, ({ resources, heads }, resource) => {
        for (const head of heads) if (head.scanout?.resource === resource) head.scanout = undefined;
        resources.remove(resource.id);
        return VIRTIO_GPU_RESP_OK_NODATA;
      }),
    },
  ],
  [VIRTIO_GPU_CMD_SET_SCANOUT, { bytes: HEADER_BYTES + 24, run: setScanout }],
  [
    VIRTIO_GPU_CMD_RESOURCE_FLUSH,
    {
      bytes: HEADER_BYTES + 24,
      // What is shown lies in the pool: a transfer has changed it already.
      run: withResource(16, ({ count }, resource, view) => {
        if (!isWithin(rectAt(view), resource)) return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
        count('flushes');
        return VIRTIO_GPU_RESP_OK_NODATA;
      }),
    },
  ],
  [VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D, { bytes: HEADER_BYTES + 32, run: withResource(24, transfer) }],
  [VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING, { bytes: HEADER_BYTES + 8, run: withResource(0, attachBacking) }],
  [
    VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING,
    {
      bytes: HEADER_BYTES + 8,
      run: withResource(0, ({ resources }, resource) => {
        resources.detach(resource);
        return VIRTIO_GPU_RESP_OK_NODATA;
      }),
    },
  ],
]);

/** The commands of the cursor queue. */
export const CURSOR_COMMANDS: ReadonlyMap<number, Command> = new Map<number, Command>([
  [VIRTIO_GPU_CMD_UPDATE_CURSOR, { bytes: HEADER_BYTES + 32, run: updateCursor }],
  [VIRTIO_GPU_CMD_MOVE_CURSOR, { bytes: HEADER_BYTES + 32, run: moveCursor }],
]);

/** Does a command, and returns its response. @throws SysError if guest memory cannot be reached any more, its owner being gone */
export function runCommand(
  commands: ReadonlyMap<number, Command>,
  target: CommandTarget,
  given: Uint8Array,
): Response {
  const view = new DataView(given.buffer, given.byteOffset, given.length);
  const command = commands.get(view.getUint32(0, true));
  if (command === undefined) return { type: VIRTIO_GPU_RESP_ERR_UNSPEC };
  if (given.length < command.bytes) return { type: VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER };
  const answer = command.run(target, view);
  return typeof answer === 'number' ? { type: answer } : answer;
}

/** Screens stand side by side, from the left. */
function displayInfo(heads: readonly Head[]): Response {
  const data = new Uint8Array(DISPLAY_BYTES * VIRTIO_GPU_MAX_SCANOUTS);
  const view = new DataView(data.buffer);
  let x = 0;
  for (const [i, { size }] of heads.entries()) {
    if (size === undefined) continue;
    const at = i * DISPLAY_BYTES;
    view.setUint32(at, x, true);
    view.setUint32(at + 8, size.xres, true);
    view.setUint32(at + 12, size.yres, true);
    view.setUint32(at + 16, 1, true);
    x += size.xres;
  }
  return { type: VIRTIO_GPU_RESP_OK_DISPLAY_INFO, data };
}

function edidOf({ heads, hasEdid }: CommandTarget, view: DataView): number | Response {
  if (!hasEdid) return VIRTIO_GPU_RESP_ERR_UNSPEC;
  const head = heads[u32(view, 0)];
  if (head === undefined) return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
  const { edid } = head.screen;
  const data = new Uint8Array(8 + EDID_BYTES);
  new DataView(data.buffer).setUint32(0, edid.length, true);
  data.set(edid, 8);
  return { type: VIRTIO_GPU_RESP_OK_EDID, data };
}

function setScanout({ heads, resources }: CommandTarget, view: DataView): number {
  const [head, id] = [heads[u32(view, 16)], u32(view, 20)];
  if (head === undefined) return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
  if (id === 0) {
    head.scanout = undefined;
    return VIRTIO_GPU_RESP_OK_NODATA;
  }
  const resource = resources.get(id);
  if (resource === undefined) return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
  const rect = rectAt(view);
  if (!isWithin(rect, resource)) return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
  head.scanout = { resource, rect };
  return VIRTIO_GPU_RESP_OK_NODATA;
}

function attachBacking({ resources }: CommandTarget, resource: Resource, view: DataView): number {
  const entries = u32(view, 4);
  const at = HEADER_BYTES + 8;
  if (entries === 0 || entries > MOST_BACKING_ENTRIES || at + entries * MEM_ENTRY_BYTES > view.byteLength)
    return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
  return resources.attach(resource, Backing.read(view, at, entries));
}

/**
 * Copies a rectangle from the backing, whose lines are as long as the resource's. Whole lines are copied at once; others one by one.
 */
function transfer({ resources, access, count }: CommandTarget, resource: Resource, view: DataView): number {
  const rect = rectAt(view);
  const { backing, stride } = resource;
  if (!isWithin(rect, resource)) return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
  if (backing === undefined) return VIRTIO_GPU_RESP_ERR_UNSPEC;
  // Not exact above 2^53, where no backing ends.
  const from = u32(view, 16) + u32(view, 20) * 2 ** 32;
  const line = rect.width * PIXEL_BYTES;
  const span = (rect.height - 1) * stride + line;
  if (from + span > backing.bytes) return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
  const to = rect.y * stride + rect.x * PIXEL_BYTES;
  const isWhole = line === stride;
  try {
    if (isWhole) backing.copy(access, from, resources.bytesOf(resource, to, span));
    else
      for (let y = 0; y < rect.height; y++)
        backing.copy(access, from + y * stride, resources.bytesOf(resource, to + y * stride, line));
  } catch (error) {
    if (!isErrno(error, 'EFAULT') && !isErrno(error, 'EPERM')) throw error;
    return VIRTIO_GPU_RESP_ERR_UNSPEC;
  }
  count('transfers');
  count('transferredBytes', line * rect.height);
  return VIRTIO_GPU_RESP_OK_NODATA;
}

/** struct virtio_gpu_cursor_pos: the head, and the position as numbers with a sign. */
function positionOf(view: DataView) {
  return {
    index: u32(view, 0),
    x: view.getInt32(HEADER_BYTES + 4, true),
    y: view.getInt32(HEADER_BYTES + 8, true),
  };
}

function moveCursor({ heads, count }: CommandTarget, view: DataView): number {
  const { index, x, y } = positionOf(view);
  const head = heads[index];
  if (head === undefined) return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
  if (head.cursor !== undefined) head.cursor = { ...head.cursor, x, y };
  count('cursorMoves');
  return VIRTIO_GPU_RESP_OK_NODATA;
}

/** A user of the guest's chooses it, and anything. */
const hotAt = (view: DataView, at: number): number =>
  Math.min(Math.max(view.getInt32(HEADER_BYTES + at, true), 0), CURSOR_SIDE - 1);

/** The pixels are copied: what the guest does with the resource afterwards changes no cursor. */
function updateCursor({ heads, resources, cursorBytes }: CommandTarget, view: DataView): number {
  const { index, x, y } = positionOf(view);
  const head = heads[index];
  if (head === undefined) return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
  const id = u32(view, 16);
  if (id === 0) {
    head.cursor = undefined;
    return VIRTIO_GPU_RESP_OK_NODATA;
  }
  const resource = resources.get(id);
  if (resource === undefined) return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
  const { width, height, bytes, pixels } = resource;
  if (width !== CURSOR_SIDE || height !== CURSOR_SIDE) return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
  cursorBytes(head).set(resources.bytesOf(resource, 0, bytes));
  head.cursor = { drmFormat: pixels.withAlpha, x, y, hotX: hotAt(view, 20), hotY: hotAt(view, 24) };
  return VIRTIO_GPU_RESP_OK_NODATA;
}
