/**
 * Shows  a vendor driver in one file: a PCI card that throws dice, with registers, a mappable page, MSI and DMA
 * Needs  nothing; docs/vendor-driver.md explains it piece by piece
 * Prints nothing: it is a plug-in
 *
 *   npx tsvisor run --plugin ./dist/examples/vendor-driver.js --device virtio-net --device dice,sides=20
 */
import { randomInt } from 'node:crypto';
import { constants } from 'node:os';
import type { Plugin } from 'tsvisor';
import {
  ConfigSpace,
  PCI_CAP_ID_MSI,
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_MSI_FLAGS_64BIT,
  PCI_VENDOR_ID,
  PciRegions,
  RegionOps,
  registerAccess,
} from 'tsvisor/devices';
import {
  createSharedMemory,
  duplicateFd,
  type Fd,
  type Iova,
  type IrqInfo,
  type IrqSet,
  type MdevInstance,
  type OpenDevice,
  SysError,
  signalEventfd,
  type VendorDriver,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
  type VfioDeviceOps,
} from 'tsvisor/vfio';

// BAR 0, words of 32 bits: the card's registers.
const REGISTER_BAR = 0;
const SIDES = 0x00; // read-only
const COUNT = 0x04; // number of dice; each result is a byte of memory
const ADDRESS_LOW = 0x08; // IOVA of the results
const ADDRESS_HIGH = 0x0c;
const THROW = 0x10; // any write throws
const STATUS = 0x14; // DONE or FAILED
const DONE = 1;
const FAILED = 2;
const MOST_DICE = 4096;

// BAR 2, one mappable page: how often each side has come up, a 32-bit word per side.
const TALLY_BAR = 2;
const PAGE = 4096;
const MOST_SIDES = 255;

/** Configuration space without the BARs. Bits are read-only unless allowed. */
function createConfig(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, 0x1234);
  space.set(PCI_DEVICE_ID, 2, 0xd1ce);
  space.set(PCI_CLASS_DEVICE, 2, 0xff00);
  space.set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  // One message. The card never uses its address and data: it signals the user's eventfd.
  space.addCapability(PCI_CAP_ID_MSI, Uint8Array.of(PCI_MSI_FLAGS_64BIT, 0, ...new Uint8Array(10)));
  return space;
}

/** The card, with the regions and interrupts that vfio-pci would report for it. */
class Dice extends RegionOps implements VfioDeviceOps, Disposable {
  readonly name = 'dice';
  readonly #sides: number;
  readonly #memory = createSharedMemory('dice tally', PAGE);
  /** The page as 32-bit words. */
  readonly #tally = new Uint32Array(this.#memory.mapping.view.slice(0, PAGE).buffer, 0, PAGE / 4);
  readonly #registers = new Uint32Array(6);
  /** Duplicates of the user's eventfds, by interrupt index. */
  readonly #irqs = new Map<number, Fd>();
  #open: OpenDevice | undefined;
  throws = 0;

  protected readonly regions = new PciRegions('dice', {
    config: { create: createConfig },
    bars: [
      {
        index: REGISTER_BAR,
        size: PAGE,
        ...registerAccess({
          read: (at) => (this.#registers[at >> 2] ?? 0xffff_ffff) >>> (8 * (at & 3)),
          write: (at, bytes, value) => bytes === 4 && this.#writeRegister(at, value),
        }),
      },
      { index: TALLY_BAR, size: PAGE, memory: this.#memory },
    ],
  });

  constructor(sides: number) {
    super();
    this.#sides = sides;
  }

  openDevice(open: OpenDevice): void {
    this.#open = open;
    this.regions.resetConfig();
    this.reset();
  }

  closeDevice(): void {
    for (const fd of this.#irqs.values()) fd[Symbol.dispose]();
    this.#irqs.clear();
    this.#open = undefined;
  }

  override reset(): void {
    this.#registers.fill(0);
    this.#registers[SIDES / 4] = this.#sides;
    this.#tally.fill(0);
  }

  #writeRegister(at: number, value: number): void {
    if (at === THROW) this.#throw();
    else if (at === STATUS) this.#registers[STATUS / 4] = 0;
    else if (at === COUNT || at === ADDRESS_LOW || at === ADDRESS_HIGH) this.#registers[at / 4] = value;
  }

  /** Writes the results to guest memory before the interrupt, as on a bus. */
  #throw(): void {
    const word = (at: number): number => this.#registers[at / 4] as number;
    const count = Math.min(word(COUNT), MOST_DICE);
    const results = Uint8Array.from({ length: count }, () => randomInt(this.#sides) + 1);
    const address = (BigInt(word(ADDRESS_HIGH)) << 32n) | BigInt(word(ADDRESS_LOW));
    this.#registers[STATUS / 4] = this.#store(address as Iova, results) ? DONE : FAILED;
    this.#interrupt(VFIO_PCI_MSI_IRQ_INDEX);
  }

  #store(address: Iova, results: Uint8Array): boolean {
    if (this.#open === undefined || (this.regions.command & PCI_COMMAND_MASTER) === 0) return false;
    try {
      this.#open.dma.rw(address, results, true);
    } catch {
      return false; // the address is not mapped: the status reports that to the guest's driver
    }
    this.throws += results.length;
    for (const side of results) Atomics.add(this.#tally, side, 1);
    return true;
  }

  getIrqInfo(index: number): IrqInfo {
    const isThere = index === VFIO_PCI_MSI_IRQ_INDEX || index === VFIO_PCI_REQ_IRQ_INDEX;
    return { index, flags: isThere ? VFIO_IRQ_INFO_EVENTFD : 0, count: isThere ? 1 : 0 };
  }

  setIrqs({ index, flags, count, data }: IrqSet): void {
    if ((flags & VFIO_IRQ_SET_ACTION_TRIGGER) === 0) {
      const hint = 'a message has no mask here';
      throw new SysError({
        call: 'VFIO_DEVICE_SET_IRQS',
        target: this.name,
        errno: constants.errno.ENOTTY,
        hint,
      });
    }
    if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0 && count > 0) {
      this.#interrupt(index); // DATA_NONE and DATA_BOOL raise the interrupt as the card would
      return;
    }
    const number = data?.[0] ?? -1;
    const next = number < 0 ? undefined : duplicateFd(number, `dice irq ${index}`);
    this.#irqs.get(index)?.[Symbol.dispose]();
    if (next === undefined) this.#irqs.delete(index);
    else this.#irqs.set(index, next);
  }

  #interrupt(index: number): void {
    const fd = this.#irqs.get(index);
    if (fd !== undefined) signalEventfd(fd.number);
  }

  request(): void {
    this.#interrupt(VFIO_PCI_REQ_IRQ_INDEX);
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}

/** The number of sides from the options. @throws SysError EINVAL for an unknown option or an invalid number */
function parseSides(options: Readonly<Record<string, string>>): number {
  const { sides = '6', ...unknown } = options;
  const value = /^\d{1,3}$/.test(sides) ? Number(sides) : 0;
  const problem =
    Object.keys(unknown).length > 0
      ? `unknown option ${Object.keys(unknown).join(', ')}: expected sides=`
      : value < 2 || value > MOST_SIDES
        ? `sides: ${sides} is not a number from 2 to ${MOST_SIDES}`
        : undefined;
  if (problem === undefined) return value;
  throw new SysError({ call: 'mdev create', target: 'dice', errno: constants.errno.EINVAL, hint: problem });
}

export const diceDriver: VendorDriver = {
  name: 'dice',
  types: [
    {
      name: 'dice',
      description: 'a card that throws dice (sides=6)',
      deviceApi: 'vfio-pci',
      maxInstances: 8,
      options: [{ name: 'sides', value: 'N', description: 'sides of a die; by default 6' }],
    },
  ],
  create(_type, _uuid, options): MdevInstance {
    const dice = new Dice(parseSides(options));
    return {
      ops: dice,
      counters: () => ({ throws: dice.throws }),
      [Symbol.dispose]: () => dice[Symbol.dispose](),
    };
  },
};

export const plugin: Plugin = { name: 'dice', vendorDrivers: [diceDriver] };
