/** What an assigned PCI device consists of, and how it is opened. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { Scope } from '../../sys/scope.js';
import type { OpenedVf, PciWiring, SlotReset } from '../../vfio/assign/index.js';
import type { SriovFunctions } from '../../vfio/sriov.js';
import {
  type DeviceFile,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../../vfio/uapi.js';
import type { PciEnvironment } from '../contracts.js';
import type { BarShape } from '../pci/bar.js';
import {
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_MASK,
  PCI_HEADER_TYPE_NORMAL,
  PCI_INTERRUPT_PIN,
} from '../pci/pci-regs.js';
import { type BarRegions, Bars, findBarRegions } from './bars.js';
import { walkCapabilities } from './capabilities.js';
import { ConfigShadow } from './config-shadow.js';
import { DeviceConfig } from './device-config.js';
import { wireSignal } from './err-req.js';
import { InterruptMode } from './interrupt-mode.js';
import { Intx } from './intx.js';
import { IrqPort } from './irq-port.js';
import { Msi } from './msi.js';
import { Msix, type MsixShape, type PlacedArea, readMsixShape } from './msix.js';
import { attempt, note, plural } from './notes.js';
import { Region } from './region.js';
import { type GuestResets, guestResets, type ResetSubject, resetDevice } from './reset.js';
import type { SlotMember, SlotMembers } from './slot-members.js';
import { type OpenVf, Sriov } from './sriov.js';

/** Parts of an open device. */
export interface DeviceParts {
  readonly file: DeviceFile;
  readonly config: DeviceConfig;
  readonly shadow: ConfigShadow;
  readonly shapes: readonly BarShape[];
  readonly bars: Bars;
  readonly mode: InterruptMode;
  readonly msi: Msi | undefined;
  readonly msix: Msix | undefined;
  readonly resets: DeviceResets;
  /** Its VFs, and the resets of the guest that end them. */
  readonly sriov: { readonly vfs: Sriov; readonly resets: GuestResets } | undefined;
}

/** A slot, and the machine's devices that may be on it. */
export interface SlotOptions {
  /** The reset of the device's slot. */
  readonly reset: SlotReset;
  /** The devices of the machine that have one; one object for all of them. */
  readonly members: SlotMembers;
}

/** The resets of a device, and whether it has been used since the last one. */
export class DeviceResets {
  readonly #subject: ResetSubject;
  /** Nothing of a user is left in it, as far as its reset reaches. */
  isClean = false;

  constructor(subject: ResetSubject) {
    this.#subject = subject;
  }

  /** @throws SysError as {@link resetDevice} */
  reset(isClosing = false): void {
    if (this.isClean) return;
    this.isClean = resetDevice({ ...this.#subject, isClosing });
  }
}

/** What a device is opened from. */
export interface DeviceRequest {
  /** Identifies the function in notes and errors. */
  readonly name: string;
  readonly file: DeviceFile;
  readonly environment: PciEnvironment;
  readonly wiring: PciWiring;
  readonly slot: SlotOptions | undefined;
  readonly sriov: SriovFunctions<OpenedVf> | undefined;
  /** The device, once it is made of its parts. */
  readonly member: () => SlotMember | undefined;
  readonly openVf: OpenVf;
}

/**
 * Resets a device, and opens its parts, with decoding, bus mastering, MSI and MSI-X disabled.
 * @param scope gets what is to be closed
 * @throws SysError as VfioPciDevice.open
 */
export function openParts(request: DeviceRequest, scope: Scope): DeviceParts {
  const { name, file, environment, wiring, slot, sriov, member, openVf } = request;
  const info = file.getInfo();
  if ((info.flags & VFIO_DEVICE_FLAGS_PCI) === 0) throw notUsable(name, 'not a PCI device');
  note(name, 'open', `${plural(info.numRegions, 'region')}, ${plural(info.numIrqs, 'interrupt kind')}`);
  const config = new DeviceConfig(Region.open(name, file, VFIO_PCI_CONFIG_REGION_INDEX));
  const read = (offset: number, bytes: number): number => config.read(offset, bytes);
  const quiesced: SlotMember = { name, isIdle: true, beforeReset: () => {}, afterReset: () => {} };
  const resetSlot =
    slot === undefined ? undefined : () => slot.members.reset(member() ?? quiesced, slot.reset);
  const resets = new DeviceResets({ name, file, config, resetSlot });
  resets.reset();
  scope.defer(() => attempt(name, 'reset', () => resets.reset(true)));
  if ((read(PCI_HEADER_TYPE, 1) & PCI_HEADER_TYPE_MASK) !== PCI_HEADER_TYPE_NORMAL) {
    throw notUsable(name, 'a bridge: assign the functions behind it');
  }

  const irq = (index: number): IrqPort | undefined => IrqPort.open(file, info.numIrqs, index);
  const intxIrq = irq(VFIO_PCI_INTX_IRQ_INDEX);
  const msiIrq = irq(VFIO_PCI_MSI_IRQ_INDEX);
  const msixIrq = irq(VFIO_PCI_MSIX_IRQ_INDEX);
  const regions = findBarRegions(name, file, read, info.numRegions);
  const msixShape = msixIrq === undefined ? undefined : findMsix(name, read, regions);
  const pin = read(PCI_INTERRUPT_PIN, 1);
  const gsi = pin === 0 || intxIrq === undefined ? undefined : wiring.routeIntx?.(pin);

  const places = sriov && wiring.reserveVfs?.(sriov.totalVfs);
  if (places !== undefined) scope.own(places);
  const takesEmulatedWrites = file.takesEmulatedWrites === true;
  const shadow = ConfigShadow.create(name, config, {
    takesEmulatedWrites,
    bars: regions.bars.map(({ shape }) => shape),
    rom: regions.rom?.size,
    interruptPin: gsi === undefined ? 0 : pin,
    interruptLine: gsi ?? 0,
    msiVectors: msiIrq?.info.count ?? 0,
    msixVectors: msixShape === undefined ? 0 : (msixIrq?.info.count ?? 0),
    sriov: sriov && places && { source: sriov, places },
  });
  shadow.agree();
  const bars = scope.own(Bars.open(name, file, regions, msixShape, shadow.space, environment));

  const { interrupts } = environment;
  const msiAt = shadow.find(PCI_CAP_ID_MSI);
  const msixAt = shadow.find(PCI_CAP_ID_MSIX);
  const intx =
    gsi === undefined || intxIrq === undefined
      ? undefined
      : new Intx(name, gsi, intxIrq, interrupts, environment.signals);
  const msi =
    msiAt === undefined || msiIrq === undefined
      ? undefined
      : new Msi(
          name,
          shadow.space,
          msiAt,
          msiIrq,
          interrupts,
          takesEmulatedWrites ? (at) => read(at, 4) : undefined,
        );
  const msix =
    msixAt === undefined || msixIrq === undefined || msixShape === undefined
      ? undefined
      : new Msix(name, msixShape, shadow.space, msixAt, msixIrq, interrupts);
  if (msix !== undefined) bars.attachMsix(msix, takesEmulatedWrites);
  const mode = new InterruptMode(intx, msi, msix);
  scope.defer(() => mode.stop());

  const { signals } = environment;
  const wire = (what: 'err' | 'req', index: number, ready: (() => void) | undefined): void => {
    const signal = wireSignal(name, what, irq(index));
    if (signal === undefined) return;
    scope.own(signal);
    scope.own(
      signals.watch(signal.fd, () => {
        note(
          name,
          what,
          what === 'err' ? 'the device had an uncorrectable error' : 'the host wants the device back',
        );
        ready?.();
      }),
    );
  };
  wire('err', VFIO_PCI_ERR_IRQ_INDEX, wiring.failed);
  wire('req', VFIO_PCI_REQ_IRQ_INDEX, wiring.requested);
  mode.update();

  const shapes = regions.bars.map(({ shape }) => shape);
  const hasVfs = sriov !== undefined && places !== undefined && shadow.hasSriov;
  const vfs = hasVfs
    ? scope.own(new Sriov({ name, space: shadow.space, source: sriov, places, open: openVf }))
    : undefined;
  return {
    ...{ file, config, shadow, shapes, bars, mode, msi, msix, resets },
    sriov: vfs && { vfs, resets: guestResets(config) },
  };
}

function notUsable(name: string, why: string): SysError {
  return new SysError({ call: 'VFIO_DEVICE_GET_INFO', target: name, errno: errno.ENODEV, hint: why });
}

/** The MSI-X capability's contents; undefined if there is none, or its table or PBA lies outside the BARs. */
function findMsix(
  name: string,
  read: (offset: number, bytes: number) => number,
  regions: BarRegions,
): MsixShape | undefined {
  const capability = walkCapabilities(read).find(({ id }) => id === PCI_CAP_ID_MSIX);
  if (capability === undefined) return undefined;
  const shape = readMsixShape(read, capability.offset);
  const exists = ({ bar, offset, size }: PlacedArea): boolean =>
    regions.bars.some(
      (found) =>
        found.shape.index === bar && found.shape.kind !== 'io' && BigInt(offset + size) <= found.shape.size,
    );
  if (exists(shape.table) && exists(shape.pba)) return shape;
  note(name, 'msix', 'the MSI-X table or PBA does not lie in a BAR');
  return undefined;
}
