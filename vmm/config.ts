import { existsSync } from 'node:fs';
import { totalmem } from 'node:os';
import * as z from 'zod/mini'; // a start loads it
import { PAGE_SIZE } from '../sys/address.js';
import { DOOR_NAMES } from '../sys/ioctl-door.js';
import { type TraceName, trace } from '../sys/trace.js';
import { ConfigError } from './config-error.js';
import { inputFileProblem, MOST_IMAGE_BYTES } from './input-file.js';
import { pluginUrl } from './plugin-url.js';
import { problemText, shown } from './problem-text.js';
import { MOST_SERIAL_PORTS, serialEndProblem } from './serial-end.js';
import { type VgpuCardConfig, type VgpuCardInput, vgpuCardsSchema } from './vgpu-cards.js';

const UNITS: Readonly<Record<string, bigint>> = {
  '': 1n,
  K: 1n << 10n,
  M: 1n << 20n,
  G: 1n << 30n,
  T: 1n << 40n,
};

const HUGE_PAGE_SIZES = ['2M', '1G'] as const;
/** By the name in the configuration, in bytes. */
export const HUGE_PAGE_BYTES: Readonly<Record<string, number | undefined>> = { '2M': 2 ** 21, '1G': 2 ** 30 };

/** Parses a size into bytes: `4096`, `64M`, `1G`; undefined if `text` is not a size. */
export function parseSize(text: string): bigint | undefined {
  const match = /^(\d+)([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  const unit = UNITS[(match?.[2] ?? '?').toUpperCase()];
  return match === null || unit === undefined ? undefined : BigInt(match[1] as string) * unit;
}

const size = z.pipe(
  z.union([z.string(), z.number(), z.bigint()]),
  z.transform((value: string | number | bigint, { issues }): bigint => {
    const bytes =
      typeof value === 'string'
        ? parseSize(value)
        : typeof value === 'bigint' || Number.isSafeInteger(value)
          ? BigInt(value)
          : undefined;
    if (bytes !== undefined) return bytes;
    const message = `${shown(value)} is not a size; write 64M, 1G or a number of bytes`;
    issues.push({ code: 'custom', message, input: value });
    return z.NEVER;
  }),
);

const memory = size.check(
  z.superRefine((bytes, context) => {
    const host = BigInt(totalmem());
    const problem =
      bytes < 0n
        ? `${bytes} bytes is negative`
        : bytes === 0n
          ? 'is empty; a machine needs at least one page (4096 bytes)'
          : bytes % PAGE_SIZE !== 0n
            ? `${bytes} bytes is not a multiple of the page size, ${PAGE_SIZE}`
            : bytes > host
              ? `${bytes >> 20n} MiB is more than the ${host >> 20n} MiB this host has`
              : undefined;
    if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
  }),
);

const text = () => z.string().check(z.minLength(1));

/** Path of a file that can be read. It is opened when the machine starts, and checked again. */
const inputFile = (mostBytes: number) =>
  text().check(
    z.superRefine((path, context) => {
      const problem = path === '' ? undefined : inputFileProblem(path, mostBytes);
      if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
    }),
  );

/** One entry of `devices`. */
export const deviceSchema = z.strictObject({
  /** Address of the device: a type of the in-process core (`virtio-net`), or any address that a provider takes. */
  address: text(),
  /** The provider's or the device type's options, by name. */
  options: z._default(z.record(z.string(), z.string()), {}),
  /** The VFIO interface: groups and containers, or cdevs and iommufd. */
  interface: z._default(z.enum(['group', 'iommufd']), 'group'),
  /** PCI device number on bus 0; the first free one from 3 if absent. */
  slot: z.optional(z.int().check(z.minimum(1), z.maximum(31))),
  /** Its function number in that slot: 1 to 7 beside a device that is the slot's function 0. They come and go together. */
  function: z.optional(z.int().check(z.minimum(0), z.maximum(7))),
});

/** Resolves to the module's URL. */
const plugin = z.pipe(
  text(),
  z.transform((specifier: string, { issues }): string => {
    try {
      return pluginUrl(specifier, process.cwd());
    } catch (error) {
      const message = `'${specifier}': ${(error as Error).message}`;
      issues.push({ code: 'custom', message, input: specifier });
      return z.NEVER;
    }
  }),
);

/** The kernel gives rights to files that exist, not to names. */
const allowedPath = text().check(
  z.superRefine((path, context) => {
    if (path === '' || existsSync(path)) return;
    context.addIssue({ code: 'custom', message: `there is no file or folder ${path}` });
  }),
);

const sandboxMode = z.enum(['off', 'on', 'strict', 'log']);

const sandboxObject = z.strictObject({
  /** As the text alone. */
  mode: z._default(sandboxMode, 'on'),
  /** Further files and folders that can be read: of plug-ins, for instance. */
  read: z._default(z.array(allowedPath), []),
  /** Further files and folders that can be read and written, devices with their ioctls. */
  write: z._default(z.array(allowedPath), []),
});
type Sandbox = z.output<typeof sandboxObject>;

const sandbox = z.pipe(
  z._default(
    z.union([sandboxMode, sandboxObject], {
      error: 'is none of off, on, strict, log, and no object of mode, read and write (lists of paths)',
    }),
    'off',
  ),
  z.transform((value: Sandbox['mode'] | Sandbox) =>
    typeof value === 'string' ? { mode: value, read: [], write: [] } : value,
  ),
);

const serialEnd = z.string().check(
  z.superRefine((end, context) => {
    const problem = serialEndProblem(end);
    if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
  }),
);
/** COM1 for the observer. */
const DEFAULT_SERIAL = ['observer'];

const isRingSize = (entries: number): boolean =>
  Number.isInteger(entries) && entries >= 1024 && entries <= 65_536 && (entries & (entries - 1)) === 0;

const traceNames = Object.keys(trace) as [TraceName, ...TraceName[]];

type Placed = Readonly<Record<'slot' | 'function', number | undefined>>;

/** Reports places that two devices name, and functions that no guest would find. */
function checkSlots(devices: readonly Partial<Placed>[], context: Problems): void {
  const seen = new Map<string, number>();
  const places = devices.map(({ slot, function: number = 0 }) => ({ slot, number }));
  for (const [i, { slot, number }] of places.entries()) {
    const problem = (message: string) =>
      context.addIssue({ code: 'custom', path: ['devices', i, 'slot'], message });
    if (slot === undefined) {
      if (number > 0) problem(`a device that is function ${number} names its slot`);
      continue;
    }
    const place = number === 0 ? `${slot}` : `${slot}.${number}`;
    const first = seen.get(place);
    if (first === undefined) seen.set(place, i);
    else problem(`${place} is devices[${first}]'s`);
    if (number > 0 && !places.some((other) => other.slot === slot && other.number === 0))
      problem(`${place} needs a device that is function 0, slot=${slot}, beside it`);
  }
}

type Problems = Pick<z.core.$RefinementCtx, 'addIssue'>;

const MOST_DEVICES = 29;

const lateDevices = z
  .strictObject({ devices: z.array(deviceSchema).check(z.minLength(1), z.maxLength(MOST_DEVICES)) })
  .check(z.superRefine(({ devices }, context) => checkSlots(devices, context)));

const schema = z
  .strictObject({
    /** Guest RAM: bytes, or a text such as `64M`; whole pages of 4096 bytes, at most what the host has. */
    memory: z.prefault(memory, '64M'),
    /** Whether other processes can map guest RAM; always the case with a vfio-user device. */
    sharedMemory: z._default(z.boolean(), false),
    /**
     * Size of the huge pages (hugetlbfs) that guest RAM is made of; `memory` is a multiple of it. They are reserved and populated
     * at the start, which fails with the command that makes room if the host has too few. Implies `sharedMemory`.
     */
    hugePages: z._default(z.enum(['off', ...HUGE_PAGE_SIZES]), 'off'),
    /** Populate guest RAM at start, in a thread of its own; attaching a host device pins all of it in any case. */
    prefault: z._default(z.boolean(), false),
    /** Number of vCPUs, 1 to 64. */
    vcpus: z._default(z.int().check(z.minimum(1), z.maximum(64)), 1),
    /**
     * Path of an ELF64 guest image with the ABI of vmm/guest/abi.h; the built-in one if this and `kernel` are absent.
     */
    guest: z.optional(inputFile(MOST_IMAGE_BYTES)),
    /** Path of a Linux kernel: a bzImage, or a vmlinux with a PVH entry. */
    kernel: z.optional(inputFile(MOST_IMAGE_BYTES)),
    /** Path of the initial RAM disk; needs `kernel`. */
    initrd: z.optional(inputFile(Number.MAX_SAFE_INTEGER)),
    /** The kernel's command line; for other guests, text to append to the generated one. */
    cmdline: z._default(
      z.string().check(
        z.maxLength(4095),
        z.refine((line) => !line.includes('\0'), 'has a zero byte, which would end it'),
      ),
      '',
    ),
    /** Whether a guest that requests a reset is restarted; if false, the run ends. */
    reboot: z._default(z.boolean(), true),
    /** Devices to assign, in the order in which they are attached. */
    devices: z._default(z.array(deviceSchema).check(z.maxLength(MOST_DEVICES)), []),
    /** Modules that export `plugin`: vendor drivers, providers. Paths (`./x.mjs`), file: URLs or names of packages. */
    plugins: z._default(z.array(plugin), []),
    /** Cards that the vGPUs of this machine are parts of; one of 256 MiB named `card0` if there is none. */
    vgpuCards: vgpuCardsSchema,
    /**
     * The FFI library that calls KVM_RUN: `node:ffi` is Node's own, from Node 26.9 on; `koffi` requires that optional package;
     * `ffi-rs` is always there; `auto` takes the first of them that works.
     */
    ffi: z._default(z.enum(['auto', ...DOOR_NAMES]), 'auto'),
    /**
     * Entries of each vCPU's dirty ring, a power of two from 1024 to 65,536: KVM then lists the pages that the guest writes
     * while it moves, in place of a bitmap. 0: the bitmap.
     */
    dirtyRing: z._default(
      z
        .number()
        .check(
          z.refine(
            (entries) => entries === 0 || isRingSize(entries),
            'is neither 0 nor a power of two from 1024 to 65536',
          ),
        ),
      0,
    ),
    /**
     * What the serial ports are connected to, COM1 to COM4: `observer` (VmObserver.serial and typeSerial), `stdio` (the
     * terminal of `tsvisor run`; elsewhere, as `observer`), `pty`, `unix:PATH` (a socket, which listens there), `file:PATH`
     * (of the output), `none` (there is no such port).
     */
    serial: z._default(z.array(serialEnd).check(z.maxLength(MOST_SERIAL_PORTS)), [...DEFAULT_SERIAL]),
    /** Trace channels to report to the machine's owner. */
    trace: z._default(z.array(z.enum(traceNames)), []),
    /**
     * What the process may do once the machine runs: `off`: what its user may; `on`: what the machine needs, other system
     * calls fail; `strict`: they end the process, and a kernel that lacks a part of it is an error; `log`: they are made,
     * and logged by the kernel. It holds for the whole process, which enters it by `enterSandbox`.
     */
    sandbox,
  })
  .check(
    z.superRefine(({ memory, hugePages, devices, guest, kernel, initrd, serial }, context) => {
      const problem = (path: (string | number)[], message: string) =>
        context.addIssue({ code: 'custom', path, message });
      if (guest !== undefined && kernel !== undefined)
        problem(['guest'], 'there is a kernel, too: one of them is to boot');
      if (initrd !== undefined && kernel === undefined) problem(['initrd'], 'goes with a kernel');
      const pageBytes = HUGE_PAGE_BYTES[hugePages];
      if (pageBytes !== undefined && memory % BigInt(pageBytes) !== 0n)
        problem(
          ['memory'],
          `${memory} bytes is not a multiple of a huge page, ${hugePages} (${pageBytes} bytes)`,
        );
      checkSlots(devices, context);
      for (const [i, end] of serial.entries()) {
        const first = serial.indexOf(end);
        if (first < i && (end === 'stdio' || end.includes(':')))
          problem(['serial', i], `${end} is serial[${first}]'s`);
      }
    }),
  );

/**
 * A machine's configuration, as the user writes it.
 * @useDeclaredType
 */
export type VmConfigInput = z.input<typeof schema>;
/**
 * A validated configuration, with defaults filled in; frozen.
 * @useDeclaredType
 */
export type VmConfig = Readonly<z.output<typeof schema>>;
/** One entry of {@link VmConfig}'s `devices`. */
export type DeviceConfig = VmConfig['devices'][number];
/**
 * A device as the user writes it.
 * @useDeclaredType
 */
export type DeviceConfigInput = z.input<typeof deviceSchema>;

/**
 * Validates a configuration. Opens and creates nothing, but resolves plug-ins and checks that files exist; relative paths
 * and package names are resolved from the working directory.
 * @throws ConfigError listing every problem
 */
export function parseConfig(input: unknown): VmConfig {
  return Object.freeze(parse(schema, input));
}

/**
 * Validates devices to attach to a running machine; at least one.
 * @throws ConfigError listing every problem, by the device's place in the list
 */
export function parseDevices(input: unknown): readonly DeviceConfig[] {
  return parse(lateDevices, { devices: input }).devices;
}

/**
 * Validates cards of vGPUs.
 * @throws ConfigError listing every problem, by the card's place in the list
 */
export const parseVgpuCards = (input: readonly VgpuCardInput[]): readonly VgpuCardConfig[] =>
  parse(z.strictObject({ vgpuCards: vgpuCardsSchema }), { vgpuCards: input }).vgpuCards;

/** Validates data, in this program's words. @throws ConfigError listing every problem */
export function parse<T>(type: z.core.$ZodType<T>, input: unknown): T {
  const parsed = z.safeParse(type, input, { error: problemText, reportInput: true });
  if (parsed.success) return parsed.data;
  throw new ConfigError(
    parsed.error.issues.map(({ path, message }) => ({ path: pathText(path), text: message })),
  );
}

function pathText(path: readonly PropertyKey[]): string {
  const text = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  return text.replace(/^\./, '') || '(top level)';
}
