/** A device that another process serves. */
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { signalEventfd } from '../../../sys/eventfd.js';
import { duplicateFd, type Fd } from '../../../sys/fd.js';
import type { Mapping } from '../../../sys/mapping.js';
import type { FeatureInput, FeatureOutput } from '../../feature.js';
import { validateIrqSet } from '../../irq-set.js';
import {
  type DeviceFile,
  type DeviceInfo,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  type RegionIoEventFd,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../../uapi.js';
import {
  decodeDeviceInfo,
  decodeIrqInfo,
  deviceInfoRequest,
  irqInfoRequest,
  Reader,
  Writer,
} from '../message.js';
import {
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DEVICE_SET_IRQS,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
} from '../protocol.js';
import type { Connection } from './connection.js';
import { UserFeatures } from './feature.js';
import { UserRegions } from './regions.js';

const ACCESS_BYTES = 16;
const SET_IRQS_BYTES = 20;
/** Above the regions of any device; a peer that reports more is broken. */
const MOST_REGIONS = 64;
const MOST_VECTORS = 2048;
const PCI_BASE_ADDRESS_0 = 0x10;
const PCI_BASE_ADDRESS_SPACE_IO = 1;

export class UserDeviceFile implements DeviceFile {
  readonly target: string;
  readonly #connection: Connection;
  readonly #info: DeviceInfo;
  readonly #regions: UserRegions;
  readonly #features: UserFeatures;
  /** Signalled when the peer disconnects; the machine then removes the device. */
  #request: Fd | undefined;
  readonly #isMemory: (boolean | undefined)[] = [];
  /** By index. They do not change; each SET_IRQS is checked against them. */
  readonly #irqs: IrqInfo[] = [];
  /**
   * A server may emulate a whole PCI function, as QEMU's does, which refuses accesses to a BAR without an address and masks
   * vectors by its own table. Servers of version 0.0 (rust-vmm) end at a write that they do not expect.
   */
  readonly takesEmulatedWrites: boolean;
  #isOpen = true;

  /** @throws SysError ENODEV if the peer has disconnected; EPROTO for an impossible device */
  constructor(connection: Connection, trustsServer: boolean) {
    this.target = connection.path;
    this.#connection = connection;
    this.takesEmulatedWrites = connection.minor > 0;
    this.#info = decodeDeviceInfo(
      VFIO_USER_DEVICE_GET_INFO,
      connection.ask(VFIO_USER_DEVICE_GET_INFO, deviceInfoRequest()).payload,
    );
    const { numRegions, numIrqs } = this.#info;
    if (numRegions <= VFIO_PCI_CONFIG_REGION_INDEX || numRegions > MOST_REGIONS || numIrqs > MOST_REGIONS) {
      const hint = `it says it has ${numRegions} regions and ${numIrqs} kinds of interrupts`;
      throw new SysError({
        call: 'VFIO_USER_DEVICE_GET_INFO',
        target: this.target,
        errno: errno.EPROTO,
        hint,
      });
    }
    this.#regions = new UserRegions(connection, numRegions, trustsServer);
    this.#features = new UserFeatures(connection);
    connection.whenGone(() => {
      if (this.#request !== undefined) signalEventfd(this.#request.number);
    });
  }

  #use(call: string): Connection {
    if (this.#isOpen) return this.#connection;
    throw new SysError({ call, target: this.target, errno: errno.EBADF, hint: 'the device file is closed' });
  }

  /** Always includes the REQ interrupt, which reports the peer's disconnection. */
  getInfo(): DeviceInfo {
    this.#use('VFIO_DEVICE_GET_INFO');
    return { ...this.#info, numIrqs: Math.max(this.#info.numIrqs, VFIO_PCI_NUM_IRQS) };
  }

  getRegionInfo(index: number): RegionInfo {
    this.#use('VFIO_DEVICE_GET_REGION_INFO');
    return this.#regions.info(index);
  }

  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    this.#use('VFIO_USER_DEVICE_GET_REGION_IO_FDS');
    return this.#regions.ioFds(index);
  }

  getRegionFile(index: number): ReturnType<UserRegions['given']> {
    this.#use('VFIO_USER_DEVICE_GET_REGION_INFO');
    return this.#regions.given(index);
  }

  getIrqInfo(index: number): IrqInfo {
    const connection = this.#use('VFIO_DEVICE_GET_IRQ_INFO');
    if (!Number.isInteger(index) || index < 0 || index >= this.getInfo().numIrqs)
      throw this.#invalid('VFIO_DEVICE_GET_IRQ_INFO', `there is no irq index ${index}`);
    if (index === VFIO_PCI_REQ_IRQ_INDEX) return { index, flags: VFIO_IRQ_INFO_EVENTFD, count: 1 };
    if (index >= this.#info.numIrqs) return { index, flags: 0, count: 0 };
    this.#irqs[index] ??= this.#askIrqInfo(connection, index);
    return this.#irqs[index];
  }

  #askIrqInfo(connection: Connection, index: number): IrqInfo {
    const command = VFIO_USER_DEVICE_GET_IRQ_INFO;
    const info = decodeIrqInfo(command, connection.ask(command, irqInfoRequest(index)).payload);
    return { index, flags: info.flags, count: Math.min(info.count, MOST_VECTORS) };
  }

  #invalid(call: string, hint: string): SysError {
    return new SysError({ call, target: this.target, errno: errno.EINVAL, hint });
  }

  setIrqs(set: IrqSet): void {
    this.#use('VFIO_DEVICE_SET_IRQS');
    const { index, flags, start, count, data = [] } = set;
    validateIrqSet(set, this.getInfo().numIrqs, (wanted) => this.getIrqInfo(wanted), this.target);
    this.#refuseMaskingByEventfd(set);
    if (index === VFIO_PCI_REQ_IRQ_INDEX) this.#keepRequest(set);
    else if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) this.#setEventfds(set);
    else this.#sendIrqs(flags, index, start, count, (flags & VFIO_IRQ_SET_DATA_BOOL) === 0 ? [] : data, []);
  }

  /**
   * Refuses unmask eventfds for interrupts without VFIO_IRQ_INFO_AUTOMASKED, which libvfio-user never sets: some
   * servers ignore such an eventfd, others signal it instead of the trigger, and the guest would lose its interrupts.
   */
  #refuseMaskingByEventfd({ index, flags }: IrqSet): void {
    const masks = VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK;
    if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0 || (flags & masks) === 0) return;
    if ((this.getIrqInfo(index).flags & VFIO_IRQ_INFO_AUTOMASKED) !== 0) return;
    const hint = `interrupts ${index} do not mask themselves (VFIO_IRQ_INFO_AUTOMASKED)`;
    throw new SysError({ call: 'VFIO_DEVICE_SET_IRQS', target: this.target, errno: errno.ENOTTY, hint });
  }

  #keepRequest({ flags, data }: IrqSet): void {
    this.#request?.[Symbol.dispose]();
    this.#request = undefined;
    const fd = (flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0 ? -1 : (data?.[0] ?? -1);
    if (fd < 0) return;
    this.#request = duplicateFd(fd, `${this.target} REQ eventfd`);
    if (this.#connection.isGone) signalEventfd(fd);
  }

  /**
   * Splits the range: a message has at most the peer's limit of descriptors, and one for all of its range or for none.
   */
  #setEventfds({ flags, index, start, count, data = [] }: IrqSet): void {
    const most = this.#connection.capabilities.maxMsgFds;
    if (most === 0 && data.some((fd) => fd >= 0)) {
      const hint = 'the server takes no eventfds (max_msg_fds is 0), so this device has no interrupts';
      throw new SysError({ call: 'VFIO_DEVICE_SET_IRQS', target: this.target, errno: errno.ENOTSUP, hint });
    }
    if (count === 0) this.#sendIrqs(flags, index, start, count, [], []);
    for (let at = 0; at < count; ) {
      const isNone = (data[at] as number) < 0;
      let end = at + 1;
      while (end < count && (data[end] as number) < 0 === isNone && (isNone || end - at < most)) end++;
      this.#sendIrqs(flags, index, start + at, end - at, [], isNone ? [] : data.slice(at, end));
      at = end;
    }
  }

  #sendIrqs(
    flags: number,
    index: number,
    start: number,
    count: number,
    bools: readonly number[],
    fds: readonly number[],
  ): void {
    const size = SET_IRQS_BYTES + bools.length;
    const writer = new Writer(size).u32(size).u32(flags).u32(index).u32(start).u32(count);
    const request = writer.data(Uint8Array.from(bools)).bytes;
    this.#connection.ask(VFIO_USER_DEVICE_SET_IRQS, request, fds);
  }

  reset(): void {
    const connection = this.#use('VFIO_DEVICE_RESET');
    if ((this.#info.flags & VFIO_DEVICE_FLAGS_RESET) === 0)
      throw new SysError({ call: 'VFIO_DEVICE_RESET', target: this.target, errno: errno.ENOTTY });
    connection.ask(VFIO_USER_DEVICE_RESET);
    this.#features.end();
  }

  read(offset: number, data: Uint8Array): number {
    const connection = this.#use('pread');
    // All-ones, as from a bus without the device.
    if (connection.isGone) return data.fill(0xff).length;
    const { info, at } = this.#regions.place('pread', offset);
    const length = Math.min(data.length, info.size - at);
    const most = connection.capabilities.maxDataXferSize;
    for (let done = 0; done < length; done += most) {
      const count = Math.min(most, length - done);
      const request = new Writer(ACCESS_BYTES)
        .u64(at + done)
        .u32(info.index)
        .u32(count).bytes;
      const { payload } = connection.ask(VFIO_USER_REGION_READ, request);
      const reader = new Reader(VFIO_USER_REGION_READ, payload);
      reader.bytes(ACCESS_BYTES);
      data.set(reader.bytes(count), done);
    }
    return length;
  }

  write(offset: number, data: Uint8Array): number {
    const connection = this.#use('pwrite');
    if (connection.isGone) return data.length;
    const { info, at } = this.#regions.place('pwrite', offset);
    const length = Math.min(data.length, info.size - at);
    const most = connection.capabilities.maxDataXferSize;
    for (let done = 0; done < length; done += most) {
      const piece = data.subarray(done, Math.min(done + most, length));
      const request = new Writer(ACCESS_BYTES + piece.length).u64(at + done).u32(info.index);
      const { bytes } = request.u32(piece.length).data(piece);
      if (this.#isPosted(info.index)) connection.post(VFIO_USER_REGION_WRITE, bytes);
      else connection.ask(VFIO_USER_REGION_WRITE, bytes);
    }
    return length;
  }

  /** Writes to memory are posted, as on a bus, unless mapped memory or a doorbell could overtake them. */
  #isPosted(index: number): boolean {
    if (index > VFIO_PCI_BAR5_REGION_INDEX || this.#regions.hasOtherWays) return false;
    this.#isMemory[index] ??= this.#hasMemoryBar(index);
    return this.#isMemory[index];
  }

  #hasMemoryBar(index: number): boolean {
    const bar = new Uint8Array(4);
    this.read(this.#regions.info(VFIO_PCI_CONFIG_REGION_INDEX).offset + PCI_BASE_ADDRESS_0 + 4 * index, bar);
    return ((bar[0] as number) & PCI_BASE_ADDRESS_SPACE_IO) === 0;
  }

  deviceFeature(flags: number, input: FeatureInput = {}): FeatureOutput {
    this.#use('VFIO_DEVICE_FEATURE');
    return this.#features.feature(flags, input);
  }

  mmap(offset: number, bytes: number): Mapping {
    this.#use('mmap');
    return this.#regions.mmap(offset, bytes);
  }

  [Symbol.dispose](): void {
    this.#isOpen = false;
    this.#request?.[Symbol.dispose]();
    this.#request = undefined;
    this.#features.end();
    this.#regions[Symbol.dispose]();
  }
}
