/** What a card adds to the state of a virtio function: its screens, and what the guest shows, with the pictures. */
import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import { EDID_STATE_BYTES, EdidRegion } from '../vgpu/edid-region.js';
import type { TypeState } from '../virtio/saved-state.js';
import { Backing } from './backing.js';
import { FORMATS } from './formats.js';
import type { Cursor, Head } from './head.js';
import { wholePages } from './pixel-pool.js';
import { isWithin, type Rect, type Resource, type Resources } from './resources.js';
import {
  CURSOR_BYTES,
  CURSOR_SIDE,
  MOST_BACKING_ENTRIES_IN_ALL,
  MOST_RESOURCES,
  PIXEL_BYTES,
  VIRTIO_GPU_EVENT_DISPLAY,
  VIRTIO_GPU_RESP_OK_NODATA,
} from './spec.js';

/** Parts of a card that its state has. */
export interface SavedGpuParts {
  readonly name: string;
  readonly heads: readonly Head[];
  readonly resources: Resources;
  /** Bytes of the pool. */
  readonly memoryBytes: number;
  readonly cursorBytes: (head: Head) => Uint8Array;
  /** events_read. */
  readonly events: { get(): number; set(events: number): void };
  /** A state has been taken over. */
  readonly restored: () => void;
}

/** Resource, rectangle, whether there is a cursor, and that. */
const HEAD_BYTES = EDID_STATE_BYTES + 4 + 16 + 1 + 20 + CURSOR_BYTES;
/** Id, format, size, whether there is a backing, and its number of pieces. */
const RESOURCE_BYTES = 16 + 1 + 4;
const PIECE_BYTES = 16;
/** events_read, the number of heads and that of resources. */
const FIXED_BYTES = 4 + 1 + 4;
const NO_CURSOR: Cursor = { drmFormat: 0, x: 0, y: 0, hotX: 0, hotY: 0 };
const NO_RECT: Rect = { x: 0, y: 0, width: 0, height: 0 };

interface SavedHead {
  readonly screen: EdidRegion;
  /** Id of the resource; 0 for none. */
  readonly shown: number;
  readonly rect: Rect;
  readonly cursor: Cursor | undefined;
  readonly cursorPixels: Uint8Array;
}

type SavedResource = Pick<Resource, 'id' | 'format' | 'width' | 'height' | 'backing'> & {
  readonly bytes: Uint8Array;
};

export function gpuState(parts: SavedGpuParts): TypeState {
  const { heads, resources, memoryBytes, events } = parts;
  const headBytes = FIXED_BYTES + heads.length * HEAD_BYTES;
  return {
    name: 'vgp2',
    description: `a virtio-gpu with ${heads.length} screens and ${memoryBytes >>> 20} MiB`,
    lengths: {
      most:
        headBytes + MOST_RESOURCES * RESOURCE_BYTES + MOST_BACKING_ENTRIES_IN_ALL * PIECE_BYTES + memoryBytes,
      now: () => {
        const each = ({ bytes, backing }: Resource) =>
          RESOURCE_BYTES + (backing?.pieces ?? 0) * PIECE_BYTES + bytes;
        return [...resources.all].reduce((sum, resource) => sum + each(resource), headBytes);
      },
    },
    save(out) {
      out.u32(events.get()).u8(heads.length);
      for (const head of heads) saveHead(out, head, parts.cursorBytes(head));
      out.u32(resources.count);
      for (const resource of resources.all) saveResource(out, resource, resources);
    },
    read: (reader) => readGpu(reader, parts),
  };
}

function saveHead(out: StateWriter, { screen, scanout, cursor = NO_CURSOR }: Head, pixels: Uint8Array): void {
  screen.save(out);
  const { x, y, width, height } = scanout?.rect ?? NO_RECT;
  out
    .u32(scanout?.resource.id ?? 0)
    .u32(x)
    .u32(y)
    .u32(width)
    .u32(height);
  out.u8(cursor === NO_CURSOR ? 0 : 1).u32(cursor.drmFormat);
  out.u32(cursor.x >>> 0).u32(cursor.y >>> 0);
  out.u32(cursor.hotX).u32(cursor.hotY).bytes(pixels);
}

function saveResource(out: StateWriter, resource: Resource, resources: Resources): void {
  const { id, format, width, height, backing, bytes } = resource;
  out.u32(id).u32(format).u32(width).u32(height);
  out.u8(backing === undefined ? 0 : 1);
  if (backing === undefined) out.u32(0);
  else backing.save(out);
  out.bytes(resources.bytesOf(resource, 0, bytes));
}

function readGpu(reader: StateReader, parts: SavedGpuParts): () => boolean {
  const events = reader.u32();
  if ((events & ~VIRTIO_GPU_EVENT_DISPLAY) !== 0) reader.fail(`events_read ${events}`);
  reader.same('number of screens', reader.u8(), parts.heads.length);
  const heads = parts.heads.map(() => readHead(reader, parts.name));
  const count = reader.u32();
  if (count > MOST_RESOURCES) reader.fail(`${count} resources`);
  const saved = Array.from({ length: count }, () => readResource(reader, parts.memoryBytes));
  const byId = new Map(saved.map((resource) => [resource.id, resource]));
  if (byId.size !== count || byId.has(0)) reader.fail('two resources of one number');
  const bytes = saved.reduce((sum, resource) => sum + wholePages(resource.bytes.length), 0);
  if (bytes > parts.memoryBytes) reader.fail(`pictures of ${bytes} bytes in ${parts.memoryBytes}`);
  const pieces = saved.reduce((sum, { backing }) => sum + (backing?.pieces ?? 0), 0);
  if (pieces > MOST_BACKING_ENTRIES_IN_ALL) reader.fail(`${pieces} pieces of memory behind its resources`);
  for (const { shown, rect } of heads) {
    const resource = byId.get(shown);
    if (shown !== 0 && (resource === undefined || !isWithin(rect, resource)))
      reader.fail(`a screen that shows what is not in resource ${shown}`);
  }
  return () => {
    for (const resource of saved) restoreResource(resource, parts.resources);
    for (const [i, head] of parts.heads.entries()) restoreHead(head, heads[i] as SavedHead, parts);
    parts.events.set(events);
    parts.restored();
    return false;
  };
}

function readHead(reader: StateReader, name: string): SavedHead {
  const screen = EdidRegion.load(name, reader);
  const shown = reader.u32();
  const rect = { x: reader.u32(), y: reader.u32(), width: reader.u32(), height: reader.u32() };
  const hasCursor = reader.flag('whether there is a cursor');
  const drmFormat = reader.u32();
  const [x, y] = [reader.u32() | 0, reader.u32() | 0];
  const [hotX, hotY] = [reader.u32(), reader.u32()];
  const cursorPixels = reader.bytes(CURSOR_BYTES);
  const isFormat = [...FORMATS.values()].some(({ withAlpha }) => withAlpha === drmFormat);
  if (hasCursor && (!isFormat || hotX >= CURSOR_SIDE || hotY >= CURSOR_SIDE))
    reader.fail('a cursor that cannot be');
  const cursor = hasCursor ? { drmFormat, x, y, hotX, hotY } : undefined;
  return { screen, shown, rect, cursor, cursorPixels };
}

function readResource(reader: StateReader, memoryBytes: number): SavedResource {
  const [id, format, width, height] = [reader.u32(), reader.u32(), reader.u32(), reader.u32()];
  const bytes = width * height * PIXEL_BYTES;
  if (!FORMATS.has(format) || bytes === 0 || bytes > memoryBytes)
    reader.fail(`a resource of ${width} by ${height} pixels in format ${format}`);
  const hasBacking = reader.flag('whether a resource has a backing');
  const backing = Backing.load(reader);
  if (hasBacking !== backing.bytes > 0) reader.fail('a backing without memory');
  return {
    ...{ id, format, width, height },
    backing: hasBacking ? backing : undefined,
    bytes: reader.bytes(bytes),
  };
}

function restoreResource(saved: SavedResource, resources: Resources): void {
  const { id, format, width, height, backing, bytes } = saved;
  if (resources.create(id, format, width, height) !== VIRTIO_GPU_RESP_OK_NODATA)
    throw new Error(`resource ${id} of a state that has been checked does not fit`);
  const resource = resources.get(id) as Resource;
  if (backing !== undefined) resources.attach(resource, backing);
  resources.bytesOf(resource, 0, bytes.length).set(bytes);
}

function restoreHead(head: Head, saved: SavedHead, { resources, cursorBytes }: SavedGpuParts): void {
  head.adopt(saved.screen);
  const resource = resources.get(saved.shown);
  head.scanout = resource === undefined ? undefined : { resource, rect: saved.rect };
  head.cursor = saved.cursor;
  cursorBytes(head).set(saved.cursorPixels);
}
