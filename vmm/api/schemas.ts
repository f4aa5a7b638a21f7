/** What the API takes and returns, as data. Addresses are hexadecimal text, sizes are bytes, times are milliseconds. */
import { z } from 'zod';
import { deviceSchema } from '../config.js';

const hex = z.string().regex(/^0x[0-9a-f]+$/);
const count = z.int().nonnegative();
const counters = z.record(z.string(), count);
const ms = z.number().nonnegative();

/** Of query strings, which are text. */
const numeral = (least: number, most: number) =>
  z
    .string()
    .regex(/^\d{1,15}$/, 'is not a whole number')
    .transform(Number)
    .pipe(z.int().min(least).max(most));
const yes = z.enum(['true', 'false']).transform((text) => text === 'true');

export const slotSchema = numeral(1, 31);
/** The place of a served device, from 0 on. */
export const servedSlotSchema = numeral(0, 255);

export const queries = {
  none: z.strictObject({}),
  console: z.strictObject({ from: numeral(0, Number.MAX_SAFE_INTEGER).optional(), follow: yes.optional() }),
  timeline: z.strictObject({ from: numeral(0, Number.MAX_SAFE_INTEGER).optional() }),
  screenshot: z.strictObject({ slot: slotSchema.optional(), head: numeral(0, 15).optional() }),
  detach: z.strictObject({ force: yes.optional(), timeoutMs: numeral(0, 3_600_000).optional() }),
} as const;

/** Devices to attach: one, or several, all or none. */
export const attachSchema = z.union([deviceSchema, z.array(deviceSchema).min(1).max(29)]);
/** What a device's driver takes: `removed`, `slow:500+ignore-mask`, `none`. */
export const faultsSchema = z.strictObject({
  faults: z.string().min(1).max(1000),
  function: z.int().min(0).max(7).optional(),
});
/** A packet of events of a keyboard or a pointer, with the numbers of linux/input-event-codes.h. */
export const inputSchema = z.strictObject({
  events: z
    .array(
      z.strictObject({
        type: z.int().min(0).max(31),
        code: z.int().min(0).max(65_535),
        value: z
          .int()
          .min(-(2 ** 31))
          .max(2 ** 31 - 1),
      }),
    )
    .min(1)
    .max(32),
  function: z.int().min(0).max(7).optional(),
});
/** Served devices that take events. */
export const inputsSchema = z.array(
  z.object({ slot: count, input: z.enum(['keyboard', 'tablet', 'mouse']) }),
);
/** Pixels of a screen, as an EDID tells them. */
export const sizeSchema = z.strictObject({
  width: z.int().min(1).max(4095),
  height: z.int().min(1).max(4095),
  /** Which screen of the device, from 0 on; the first if absent. */
  head: z.int().min(0).max(15).optional(),
});
export const attachedSchema = z.object({ slots: z.array(count) });

/** Where a machine is saved; a folder that is there is replaced at once. */
export const snapshotSchema = z.strictObject({
  folder: z.string().min(1).max(4000),
  /** Unplugs what cannot be saved, and plugs it again. */
  detachUnmigratable: z.boolean().optional(),
  /** How long the guest has to release each such device; 30 s by default. */
  timeoutMs: z.int().min(0).max(3_600_000).optional(),
});
export const savedSchema = z.object({
  folder: z.string(),
  stateBytes: count,
  memoryBytes: count,
  /** How long the guest stood still. */
  ms,
});

/** Where a machine is moved to, `unix:PATH` or `tcp:HOST:PORT`. */
export const moveSchema = z.strictObject({
  address: z.string().min(1).max(300),
  /** How long the guest may stand still; 300 by default. */
  downtimeMs: z.number().min(0).max(3_600_000).optional(),
  /** How long the other end may be silent; 30,000 by default. */
  timeoutMs: z.int().min(1).max(3_600_000).optional(),
});
export const movedSchema = z.object({
  /** Rounds while the guest ran, and the one while it stood still. */
  rounds: count,
  sentBytes: count,
  /** From the stop of the guest here until it ran there. */
  downtimeMs: ms,
  ms,
});

export const errorSchema = z.object({
  error: z.object({
    message: z.string(),
    /** The errno's name, such as EBUSY, or ECONFIG. */
    code: z.string().optional(),
    call: z.string().optional(),
    target: z.string().optional(),
    hint: z.string().optional(),
    problems: z.array(z.object({ path: z.string(), text: z.string() })).optional(),
  }),
});

export const infoSchema = z.object({
  version: z.string(),
  pid: count,
  state: z.enum(['starting', 'running', 'paused', 'ended']),
  uptimeMs: ms,
  restarts: count,
  /** How it ended. */
  outcome: z.looseObject({ kind: z.string() }).optional(),
  /** The error that ended it, or kept it from starting. */
  failure: z.string().optional(),
  config: z.looseObject({ memory: count, vcpus: count, devices: z.array(deviceSchema) }),
});

const area = { offset: count, bytes: count };
const bar = z.object({
  label: z.string(),
  type: z.string(),
  bus: z.enum(['mmio', 'pio']),
  bytes: count,
  /** Absent while the guest does not decode it. */
  base: hex.optional(),
  parts: z.array(z.object({ ...area, kind: z.enum(['mapped', 'trapped']) })),
  doorbells: z.array(z.object(area)),
  /** The pages that had exits. */
  exits: z.array(z.object({ offset: count, reads: count, writes: count })),
  otherExits: count,
});
const interrupts = z.object({
  mode: z.enum(['msix', 'msi', 'intx', 'none']),
  gsi: count.optional(),
  vectors: z.array(
    z.object({
      vector: count,
      isMasked: z.boolean(),
      isPending: z.boolean(),
      /** Absent for a device that does not count. */
      sent: count.optional(),
    }),
  ),
});

const parent = z.object({
  name: z.string(),
  description: z.string(),
  resources: z.array(z.object({ name: z.string(), unit: z.string(), total: count, left: count })),
  /** By type: how many more could be made, if only of that type. */
  availableInstances: z.record(z.string(), count),
  instances: z.array(
    z.object({ uuid: z.string(), type: z.string(), uses: z.record(z.string(), z.string()) }),
  ),
});
const functionState = { bars: z.array(bar), interrupts };

export const devicesSchema = z.array(
  z.object({
    slot: count,
    function: count,
    name: z.string(),
    device: z.string(),
    description: z.string(),
    provider: z.string(),
    interface: z.enum(['group', 'iommufd']),
    group: count,
    cdev: z.string().optional(),
    /** The account of the card that it is a part of. */
    parent: parent.optional(),
    /** What it is to a person; absent if it takes no events. */
    input: z.enum(['keyboard', 'tablet', 'mouse']).optional(),
    counters,
    bars: functionState.bars.optional(),
    interrupts: interrupts.optional(),
    /** Those that the guest has enabled; absent if it can have none. */
    virtualFunctions: z.array(z.object({ name: z.string(), ...functionState })).optional(),
  }),
);

export const memorySchema = z.array(
  z.object({
    kind: z.enum(['ram', 'device', 'rom']),
    name: z.string(),
    gpa: hex,
    hva: hex,
    bytes: count,
    ms,
    dma: z.array(z.object({ space: z.string(), iova: hex, ms })),
    pages: z
      .object({ pageBytes: count, mappedBytes: count, residentBytes: count, hugeBytes: count })
      .optional(),
  }),
);

export const countersSchema = z.object({
  exits: counters,
  accesses: counters,
  devices: z.array(z.object({ name: z.string(), description: z.string(), counters })),
});

export const timelineSchema = z.object({
  events: z.array(
    z.object({
      at: z.number(),
      what: z.string(),
      seq: count,
      cause: count,
      task: z.string(),
      details: z.record(z.string(), z.unknown()),
    }),
  ),
  dropped: count,
});
