/** For lab tests: a test card behind the kernel's vfio-pci, driven by hand through the host provider. */
import { execFileSync } from 'node:child_process';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { PCI_CAP_ID_EXP, PCI_CAPABILITY_LIST, PCI_COMMAND } from '../devices/pci/pci-regs.js';
import {
  DMA_BUSY,
  REG_DMA_COMMAND,
  REG_DMA_CRC,
  REG_DMA_LENGTH,
  REG_DMA_MOVED,
  REG_DMA_SOURCE,
  REG_DMA_STATUS,
  REG_DMA_TARGET,
  REG_DMA_VALUE,
  REGISTER_BAR,
} from '../devices/testcard/spec.js';
import { iova } from '../sys/address.js';
import { drainEventfd, isReadable } from '../sys/eventfd.js';
import { Fd } from '../sys/fd.js';
import { Mapping } from '../sys/mapping.js';
import { Scope } from '../sys/scope.js';
import { type HostDeviceFile, hostProvider } from '../vfio/host/index.js';
import type { HotResetInfo } from '../vfio/pci-hot-reset.js';
import {
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_TYPE1v2_IOMMU,
} from '../vfio/uapi.js';
import type { VfioInterface } from './guests.js';

/** The reports of L1's kernel that are no failure, a part of each in a line. @see L1.takeDmaFaults */
const EXPECTED_DMA_FAULTS = '/run/lab/expected-dma-faults';
/** What {@link HostCard.memory} has for the card's transfers, and where. */
export const MEMORY_BYTES = 4 << 20;
export const MEMORY_IOVA = 0x1000_0000;

const RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
/** Without interrupts, in which an end of a transfer or a change is waited for. */
const PATIENCE_MS = 20_000;
/** Of an access whose report the kernel may have dropped. */
const TRIES = 4;

/** Waits until it is so. @throws Error that says what was not, after `ms` */
export async function until(what: string, isSo: () => boolean, ms = PATIENCE_MS): Promise<void> {
  for (const end = performance.now() + ms; !isSo(); await sleep(2))
    if (performance.now() > end) throw new Error(`not in time: ${what}`);
}

/** What `served NAME ...` prints. @throws Error with what it says if it fails */
export const served = (name: string, ...words: readonly string[]): string =>
  execFileSync('served', [name, ...words], { encoding: 'utf8' });

/** Interrupts of one eventfd, counted. */
export class Counted implements Disposable {
  readonly fd = Fd.eventfd('interrupt');
  #count = 0;

  /** How many have come. */
  get count(): number {
    if (isReadable(this.fd.number)) this.#count += Number(drainEventfd(this.fd.number));
    return this.#count;
  }

  async reaches(count: number): Promise<void> {
    await until(`${count} interrupts, not ${this.count}`, () => this.count >= count);
  }

  [Symbol.dispose](): void {
    this.fd[Symbol.dispose]();
  }
}

interface Space {
  readonly file: HostDeviceFile;
  map(memory: Mapping): void;
  unmap(): void;
  /** The open groups, which a hot reset takes. */
  readonly groups: Parameters<HostDeviceFile['pciHotReset']>[0];
}

function openByGroup(scope: Scope, address: string): Space {
  const provider = hostProvider();
  const device = scope.own(provider.resolve(address, {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(device.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const range = { iova: iova(BigInt(MEMORY_IOVA)), size: BigInt(MEMORY_BYTES) };
  return {
    file: scope.own(group.getDeviceFd(device.name)) as HostDeviceFile,
    map: (memory) => container.mapDma({ flags: RW, vaddr: memory.hva, ...range }),
    unmap: () => void container.unmapDma({ flags: 0, ...range }),
    groups: [group],
  };
}

function openByCdev(scope: Scope, address: string): Space {
  const provider = hostProvider();
  const device = scope.own(provider.resolve(address, {}));
  const iommufd = scope.own(provider.cdevs.openIommufd());
  const file = scope.own(provider.cdevs.openCdev(device.cdev ?? 'none'));
  file.bindIommufd(iommufd);
  const ioas = iommufd.ioasAlloc();
  file.attachIoas(ioas);
  scope.defer(() => file.detachIoas());
  const range = { iova: iova(BigInt(MEMORY_IOVA)), size: BigInt(MEMORY_BYTES) };
  return {
    file: file as HostDeviceFile,
    map: (memory) => void iommufd.ioasMap(ioas, { flags: RW, vaddr: memory.hva, ...range }),
    unmap: () => void iommufd.ioasUnmap(ioas, range),
    groups: [],
  };
}

/** An open card, with memory that is mapped for it. */
export class HostCard implements Disposable {
  readonly memory: Mapping;
  readonly file: HostDeviceFile;
  readonly #space: Space;
  readonly #owned: Disposable;
  readonly #offsets = new Map<number, number>();

  /** Opens it, and lets it be bus master. */
  constructor(
    readonly address: string,
    how: VfioInterface,
  ) {
    using scope = new Scope();
    this.memory = scope.own(Mapping.anonymous(MEMORY_BYTES));
    this.#space = (how === 'group' ? openByGroup : openByCdev)(scope, address);
    this.file = this.#space.file;
    this.#space.map(this.memory);
    this.master(true);
    this.#owned = scope.move();
  }

  unmap(): void {
    this.#space.unmap();
  }

  #place(region: number, at: number): number {
    let offset = this.#offsets.get(region);
    if (offset === undefined) {
      ({ offset } = this.file.getRegionInfo(region));
      this.#offsets.set(region, offset);
    }
    return offset + at;
  }

  read(region: number, at: number, bytes: number): Uint8Array {
    const data = new Uint8Array(bytes);
    this.file.read(this.#place(region, at), data);
    return data;
  }

  write(region: number, at: number, data: Uint8Array): void {
    this.file.write(this.#place(region, at), data);
  }

  get(register: number, region = REGISTER_BAR): number {
    return new DataView(this.read(region, register, 4).buffer).getUint32(0, true);
  }

  set(register: number, value: number, region = REGISTER_BAR): void {
    this.write(region, register, new Uint8Array(Uint32Array.of(value).buffer));
  }

  config(at: number, bytes: 1 | 2 | 4): number {
    return this.read(VFIO_PCI_CONFIG_REGION_INDEX, at, bytes).reduceRight(
      (value, byte) => value * 256 + byte,
      0,
    );
  }

  setConfig(at: number, bytes: 1 | 2 | 4, value: number): void {
    const data = Uint8Array.from({ length: bytes }, (_, i) => (value >>> (8 * i)) & 0xff);
    this.write(VFIO_PCI_CONFIG_REGION_INDEX, at, data);
  }

  /** Where a capability stands; 0 if there is none. */
  capability(id: number): number {
    let at = this.config(PCI_CAPABILITY_LIST, 1);
    for (let i = 0; i < 48 && at !== 0 && this.config(at, 1) !== id; i++) at = this.config(at + 1, 1);
    return at;
  }

  get isExpress(): boolean {
    return this.capability(PCI_CAP_ID_EXP) !== 0;
  }

  master(isOn: boolean): void {
    const rest = this.config(PCI_COMMAND, 2) & ~4;
    this.setConfig(PCI_COMMAND, 2, isOn ? rest | 4 : rest);
  }

  /** Wires interrupts from the first on; one that is undefined has no eventfd. */
  wire(index: number, interrupts: readonly (Counted | undefined)[], start = 0): void {
    const data = interrupts.map((each) => each?.fd.number ?? -1);
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    this.file.setIrqs({ index, flags, start, count: data.length, data });
  }

  unwire(index: number): void {
    this.act(index, VFIO_IRQ_SET_ACTION_TRIGGER, 0);
  }

  /** @param action VFIO_IRQ_SET_ACTION_ */
  act(index: number, action: number, count = 1): void {
    this.file.setIrqs({ index, flags: VFIO_IRQ_SET_DATA_NONE | action, start: 0, count });
  }

  /** A transfer from its start to its end, by addresses of {@link memory}. */
  async transfer(program: {
    readonly command: number;
    readonly source?: number;
    readonly target?: number;
    readonly length: number;
    readonly value?: number;
  }): Promise<{ readonly status: number; readonly crc: number; readonly moved: number }> {
    const { command, source = 0, target = 0, length, value = 0 } = program;
    for (const [register, offset] of [
      [REG_DMA_SOURCE, source],
      [REG_DMA_TARGET, target],
    ] as const) {
      const at = MEMORY_IOVA + offset;
      this.set(register, at % 2 ** 32);
      this.set(register + 4, Math.floor(at / 2 ** 32));
    }
    this.set(REG_DMA_LENGTH, length);
    this.set(REG_DMA_VALUE, value);
    this.set(REG_DMA_COMMAND, command);
    await until('the transfer has ended', () => this.get(REG_DMA_STATUS) !== DMA_BUSY);
    const [status, crc, moved] = [REG_DMA_STATUS, REG_DMA_CRC, REG_DMA_MOVED].map((each) => this.get(each));
    return { status, crc, moved } as { status: number; crc: number; moved: number };
  }

  hotResetInfo(): HotResetInfo {
    return this.file.getPciHotResetInfo();
  }

  hotReset(): void {
    this.file.pciHotReset(this.#space.groups);
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

/** What L1's kernel has printed since a moment. */
export class KernelLog {
  #start = KernelLog.#read().length;

  static #read(): string {
    return execFileSync('dmesg', { encoding: 'utf8' });
  }

  get text(): string {
    return KernelLog.#read().slice(this.#start);
  }
}

/** The kernel prints 10 lines about faults in 5 s and drops the rest: after that time a refused access is tried again. */
const FAULTS_ARE_PRINTED_MS = 6000;

/**
 * Makes a function do an access that L1's kernel refuses, until it has reported that, and tells the lab, for which the
 * report would be a failure.
 * @param access ends when the access has
 * @param at IOVA of the page
 * @returns the report, and what the last access has given
 */
export async function refusedAccess<T>(
  log: KernelLog,
  address: string,
  at: number,
  access: () => Promise<T>,
): Promise<{ readonly report: string; readonly given: T }> {
  const where = `Request device [${address.slice(-7)}] fault addr 0x${at.toString(16)}`;
  const line = () => log.text.split('\n').find((each) => each.includes(`${where} `));
  appendFileSync(EXPECTED_DMA_FAULTS, `${where} \n`);
  for (let tries = 1; ; tries++) {
    const given = await access();
    for (const end = performance.now() + FAULTS_ARE_PRINTED_MS; performance.now() < end; await sleep(20)) {
      const report = line();
      if (report !== undefined) return { report, given };
    }
    if (tries === TRIES) throw new Error(`not after ${tries} accesses: the kernel reports: ${where}`);
  }
}

/** @param method by which the kernel resets a function from now on; by none if empty */
export const setResetMethod = (address: string, method: string): void =>
  writeFileSync(`/sys/bus/pci/devices/${address}/reset_method`, `${method}\n`);

/** How the kernel would reset a function by itself, in its order. */
export const resetMethods = (address: string): readonly string[] =>
  readFileSync(`/sys/bus/pci/devices/${address}/reset_method`, 'utf8').trim().split(' ');
