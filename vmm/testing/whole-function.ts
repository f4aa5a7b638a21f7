/**
 * For tests: a served device that is a whole emulated PCI function, as those of QEMU's vfio-user server are: it decodes its BARs by
 * the addresses in its own registers, has no other way to its BARs than messages, and masks its vectors by its own MSI-X table.
 * A client that keeps these registers to itself gets EINVAL for each access, and no interrupt.
 */
import { barRegister } from '../../devices/pci/bar.js';
import {
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_MASK,
  PCI_CAP_ID_MSIX,
  PCI_COMMAND,
  PCI_COMMAND_MEMORY,
  PCI_MSIX_ENTRY_CTRL_MASKBIT,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_ENTRY_VECTOR_CTRL,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_STD_NUM_BARS,
} from '../../devices/pci/pci-regs.js';
import { walkCapabilities } from '../../devices/vfio-pci/capabilities.js';
import { type MsixShape, type PlacedArea, readMsixShape } from '../../devices/vfio-pci/msix.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { drainEventfd, isReadable, signalEventfd } from '../../sys/eventfd.js';
import { duplicateFd, Fd } from '../../sys/fd.js';
import type { OpenDevice, VfioDeviceOps } from '../../vfio/driver.js';
import {
  type IrqSet,
  type RegionInfo,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../vfio/uapi.js';

const BAR_BYTES = 4 * PCI_STD_NUM_BARS;

/** A vector: where the client wants to be signalled, and where it waits while it is masked. */
interface Vector {
  readonly client: Fd;
  readonly pending: Fd;
  isMasked: boolean;
}

/** @see whole-function-plugin.ts */
export class WholeFunction implements VfioDeviceOps, Disposable {
  readonly name: string;
  readonly #inner: VfioDeviceOps;
  readonly #vectors = new Map<number, Vector>();
  #shape: MsixShape | undefined;
  #msixAt = 0;
  #table = new Uint8Array(0);

  /** @param inner needs MSI-X, and memory BARs only */
  constructor(inner: VfioDeviceOps) {
    this.name = `whole ${inner.name}`;
    this.#inner = inner;
  }

  openDevice(open: OpenDevice): void {
    this.#inner.openDevice(open);
    const read = (at: number, bytes: number) => this.#config(at, bytes);
    this.#msixAt = walkCapabilities(read).find(({ id }) => id === PCI_CAP_ID_MSIX)?.offset as number;
    this.#shape = readMsixShape(read, this.#msixAt);
    this.#powerOn();
  }

  closeDevice(): void {
    this.#forget();
    this.#inner.closeDevice();
  }

  getInfo = () => this.#inner.getInfo();

  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    const info = this.#inner.getRegionInfo(index);
    return { ...info, flags: info.flags & ~VFIO_REGION_INFO_FLAG_MMAP, capabilities: [] };
  }

  getIrqInfo = (index: number) => this.#inner.getIrqInfo(index);

  setIrqs(set: IrqSet): void {
    const { index, flags, start, count, data = [] } = set;
    if (index !== VFIO_PCI_MSIX_IRQ_INDEX || (flags & VFIO_IRQ_SET_ACTION_TRIGGER) === 0) {
      this.#inner.setIrqs(set);
      return;
    }
    if (count === 0) {
      this.#forget();
      this.#inner.setIrqs(set);
      return;
    }
    const fds = data.map((fd, i) => this.#take(start + i, fd));
    this.#inner.setIrqs((flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0 ? set : { ...set, data: fds });
  }

  /** As of a function at power-on: no addresses, nothing decoded, every vector masked. */
  reset(): void {
    this.#inner.reset?.();
    this.#powerOn();
  }

  read(index: number, offset: number, data: Uint8Array): number {
    this.#requireDecoded(index, 'pread');
    const { table, pba } = this.#shape as MsixShape;
    if (isIn(table, index, offset))
      data.set(this.#table.subarray(offset - table.offset).subarray(0, data.length));
    else if (isIn(pba, index, offset))
      for (const i of data.keys()) data[i] = this.#pendingByte(offset - pba.offset + i);
    else return this.#inner.read(index, offset, data);
    return data.length;
  }

  write(index: number, offset: number, data: Uint8Array): number {
    this.#requireDecoded(index, 'pwrite');
    const { table } = this.#shape as MsixShape;
    if (!isIn(table, index, offset)) this.#inner.write(index, offset, data);
    else this.#table.set(data, offset - table.offset);
    if (index === VFIO_PCI_CONFIG_REGION_INDEX || isIn(table, index, offset)) this.#retarget();
    return data.length;
  }

  [Symbol.dispose](): void {
    this.#forget();
  }

  #config(at: number, bytes: number): number {
    const data = new Uint8Array(4);
    this.#inner.read(VFIO_PCI_CONFIG_REGION_INDEX, at, data.subarray(0, bytes));
    return new DataView(data.buffer).getUint32(0, true);
  }

  #powerOn(): void {
    this.#inner.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, new Uint8Array(2));
    this.#inner.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_BASE_ADDRESS_0, new Uint8Array(BAR_BYTES));
    this.#table = new Uint8Array((this.#shape as MsixShape).table.size);
    for (let at = PCI_MSIX_ENTRY_VECTOR_CTRL; at < this.#table.length; at += PCI_MSIX_ENTRY_SIZE)
      this.#table[at] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
    this.#retarget();
  }

  /** @throws SysError EINVAL for a BAR without an address, or that is not decoded */
  #requireDecoded(index: number, call: string): void {
    if (index >= PCI_STD_NUM_BARS) return;
    const isDecoded = (this.#config(PCI_COMMAND, 2) & PCI_COMMAND_MEMORY) !== 0;
    const low = this.#config(barRegister(index), 4) & PCI_BASE_ADDRESS_MEM_MASK;
    const isHigh = (this.#config(barRegister(index), 4) & 4) !== 0;
    const high = isHigh ? this.#config(barRegister(index) + 4, 4) : 0;
    if (isDecoded && (low !== 0 || high !== 0)) return;
    const hint = `BAR${index} has no address, or is not decoded`;
    throw new SysError({ call, target: this.name, errno: errno.EINVAL, hint });
  }

  /** Returns the eventfd for the device itself. */
  #take(vector: number, fd: number): number {
    this.#drop(vector);
    if (fd < 0) return -1;
    const client = duplicateFd(fd, `vector ${vector}`);
    const pending = Fd.eventfd(`pending ${vector}`);
    const taken = { client, pending, isMasked: this.#isMasked(vector) };
    this.#vectors.set(vector, taken);
    return (taken.isMasked ? pending : client).number;
  }

  #isMasked(vector: number): boolean {
    const control = this.#config(this.#msixAt + PCI_MSIX_FLAGS, 2);
    if ((control & PCI_MSIX_FLAGS_ENABLE) === 0 || (control & PCI_MSIX_FLAGS_MASKALL) !== 0) return true;
    const own = this.#table[vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL] as number;
    return (own & PCI_MSIX_ENTRY_CTRL_MASKBIT) !== 0;
  }

  /** Has each interrupt go to the client, or stay pending, as the registers say now. */
  #retarget(): void {
    for (const [vector, taken] of this.#vectors) {
      const isMasked = this.#isMasked(vector);
      if (isMasked === taken.isMasked) continue;
      taken.isMasked = isMasked;
      this.#inner.setIrqs({
        index: VFIO_PCI_MSIX_IRQ_INDEX,
        flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        start: vector,
        count: 1,
        data: [(isMasked ? taken.pending : taken.client).number],
      });
      if (isMasked) continue;
      if (drainEventfd(taken.pending.number) > 0n) signalEventfd(taken.client.number);
    }
  }

  #pendingByte(at: number): number {
    let byte = 0;
    for (let bit = 0; bit < 8; bit++) {
      const taken = this.#vectors.get(8 * at + bit);
      if (taken?.isMasked && isReadable(taken.pending.number)) byte |= 1 << bit;
    }
    return byte;
  }

  #drop(vector: number): void {
    const taken = this.#vectors.get(vector);
    this.#vectors.delete(vector);
    taken?.client[Symbol.dispose]();
    taken?.pending[Symbol.dispose]();
  }

  #forget(): void {
    for (const vector of [...this.#vectors.keys()]) this.#drop(vector);
  }
}

const isIn = ({ bar, offset, size }: PlacedArea, index: number, at: number): boolean =>
  index === bar && at >= offset && at < offset + size;
