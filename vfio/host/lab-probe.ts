/**
 * Exercises the host provider on a real device. Prints one JSON object per line, for lab tests and people.
 *   node dist/vfio/host/lab-probe.js [--cdev] [--option NAME=VALUE] ADDRESS
 */
import { parseArgs } from 'node:util';
import { iova } from '../../sys/address.js';
import type { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { plain } from '../chrome-trace.js';
import { cdevsOf, groupsOf } from '../interfaces.js';
import type { AssignableDevice, VfioProvider } from '../provider.js';
import {
  type ContainerFile,
  type DeviceFile,
  type IommufdFile,
  type IrqInfo,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_VGA_REGION_INDEX,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_TYPE1v2_IOMMU,
} from '../uapi.js';
import { HostDeviceFile } from './device.js';
import { hostProvider } from './provider.js';

const MAP_BYTES = 2 * 2 ** 20;
const MAP_IOVA = iova(0x10_0000n);
const RW = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

/** Prints large numbers in hexadecimal, comparable with dmesg. */
function tell(what: string, value: object): void {
  process.stdout.write(`${JSON.stringify({ what, ...value }, plain)}\n`);
}

/** Runs a step that devices may refuse, and prints its result. */
function attempt(what: string, step: () => object | undefined): void {
  try {
    tell(what, { ok: true, ...step() });
  } catch (error) {
    tell(what, { ok: false, error: (error as Error).message });
  }
}

/** An open device, and a function that maps memory for it. */
interface Attached {
  readonly file: DeviceFile;
  mapAndUnmap(memory: Mapping): object;
}

function attachByGroup(scope: Scope, provider: VfioProvider, device: AssignableDevice): Attached {
  const container: ContainerFile = scope.own(groupsOf(provider).openContainer());
  const group = scope.own(groupsOf(provider).openGroup(device.group));
  tell('group', { number: device.group, status: group.getStatus(), fd: group.fd });
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  tell('iommu', container.getIommuInfo());
  return {
    file: scope.own(group.getDeviceFd(device.name)),
    mapAndUnmap(memory) {
      const size = BigInt(memory.bytes);
      container.mapDma({ flags: RW, vaddr: memory.hva, iova: MAP_IOVA, size });
      const { dmaAvailable } = container.getIommuInfo();
      return { unmapped: container.unmapDma({ flags: 0, iova: MAP_IOVA, size }), dmaAvailable };
    },
  };
}

function attachByCdev(scope: Scope, provider: VfioProvider, device: AssignableDevice): Attached {
  const iommufd: IommufdFile = scope.own(cdevsOf(provider).openIommufd());
  const file = scope.own(cdevsOf(provider).openCdev(device.cdev ?? 'none'));
  const devid = file.bindIommufd(iommufd);
  const ioas = iommufd.ioasAlloc();
  file.attachIoas(ioas);
  scope.defer(() => {
    file.detachIoas();
    iommufd.destroy(ioas);
  });
  tell('iommufd', { devid, ioas, iovaRanges: iommufd.ioasIovaRanges(ioas) });
  return {
    file,
    mapAndUnmap(memory) {
      const size = BigInt(memory.bytes);
      iommufd.ioasMap(ioas, { flags: RW, vaddr: memory.hva, iova: MAP_IOVA, size });
      const chosen = iommufd.ioasMap(ioas, { flags: RW, vaddr: memory.hva, size });
      const second = iommufd.ioasUnmap(ioas, { iova: chosen, size });
      return { unmapped: iommufd.ioasUnmap(ioas, { iova: MAP_IOVA, size }), chosen, second };
    },
  };
}

/** Reads and writes back the first word of each mappable region, through mmap and read, and compares the two. */
function probeRegions(file: DeviceFile, count: number): void {
  for (let index = 0; index < count; index++) {
    // Only VGA devices have the VGA region; the kernel returns EINVAL for others.
    if (index === VFIO_PCI_VGA_REGION_INDEX) continue;
    const region = file.getRegionInfo(index);
    if (region.size === 0) continue;
    const { offset: _offset, ...shown } = region;
    tell('region', shown);
    if ((region.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) continue;
    attempt(`mmap of region ${index}`, () => {
      const sparse = region.capabilities.find(({ id }) => id === VFIO_REGION_INFO_CAP_SPARSE_MMAP);
      const area = sparse !== undefined && 'areas' in sparse ? sparse.areas[0] : undefined;
      const at = area?.offset ?? 0;
      using mapping = file.mmap(region.offset + at, Math.ceil((area?.size ?? region.size) / 4096) * 4096);
      const bytes = mapping.view.slice(0, 4);
      const word = Atomics.load(new Uint32Array(bytes.buffer, bytes.byteOffset, 1), 0);
      const read = new Uint32Array(1);
      file.read(region.offset + at, new Uint8Array(read.buffer));
      return { word: `0x${word.toString(16)}`, isSame: word === read[0] };
    });
  }
}

function probeConfig(file: DeviceFile): void {
  const { offset } = file.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX);
  const header = new Uint8Array(64);
  const bytes = file.read(offset, header);
  tell('config', { bytes, header: Buffer.from(header).toString('hex') });
}

/** Attaches an eventfd to each interrupt index in turn, sparsely if it has several interrupts, and detaches it. */
function probeIrqs(file: DeviceFile, count: number): void {
  for (let index = 0; index < count; index++) {
    let irq: IrqInfo;
    try {
      irq = file.getIrqInfo(index);
    } catch (error) {
      // vfio-pci has ERR for PCI Express only, and mdev drivers lack indexes that they do not support.
      tell('irq', { index, error: (error as SysError).code });
      continue;
    }
    tell('irq', irq);
    if (irq.count === 0 || (irq.flags & VFIO_IRQ_INFO_EVENTFD) === 0) continue;
    attempt(`eventfd on irq ${index}`, () => {
      using eventfd = Fd.eventfd('irq');
      const isMsi = index === VFIO_PCI_MSI_IRQ_INDEX || index === VFIO_PCI_MSIX_IRQ_INDEX;
      const data = isMsi && irq.count > 1 ? [-1, eventfd.number] : [eventfd.number];
      const trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
      const base = { index, start: 0 };
      file.setIrqs({ ...base, flags: VFIO_IRQ_SET_DATA_EVENTFD | trigger, count: data.length, data });
      if (index <= VFIO_PCI_MSIX_IRQ_INDEX)
        file.setIrqs({ ...base, flags: VFIO_IRQ_SET_DATA_NONE | trigger, count: 0 });
      else file.setIrqs({ ...base, flags: VFIO_IRQ_SET_DATA_EVENTFD | trigger, count: 1, data: [-1] });
      return { vectors: data.length, isIntx: index === VFIO_PCI_INTX_IRQ_INDEX };
    });
  }
}

function main(args: string[]): number {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { cdev: { type: 'boolean', default: false }, option: { type: 'string', multiple: true } },
  });
  const [address] = positionals;
  if (address === undefined) {
    process.stderr.write('lab-probe [--cdev] [--option NAME=VALUE] ADDRESS\n');
    return 2;
  }
  const options = Object.fromEntries(
    (values.option ?? []).map((pair) => pair.split('=') as [string, string]),
  );
  try {
    using scope = new Scope();
    const provider = hostProvider();
    const device = scope.own(provider.resolve(address, options));
    tell('device', { name: device.name, cdev: device.cdev, description: device.description });
    const { file, mapAndUnmap } = (values.cdev ? attachByCdev : attachByGroup)(scope, provider, device);
    const info = file.getInfo();
    tell('info', { ...info, fd: file.fd });
    probeRegions(file, info.numRegions);
    if ((info.flags & VFIO_DEVICE_FLAGS_PCI) !== 0) probeConfig(file);
    probeIrqs(file, info.numIrqs);
    using memory = Mapping.anonymous(MAP_BYTES);
    tell('dma map', mapAndUnmap(memory));
    if ((info.flags & VFIO_DEVICE_FLAGS_RESET) !== 0) attempt('reset', () => void file.reset());
    if (file instanceof HostDeviceFile) attempt('hot reset info', () => file.getPciHotResetInfo());
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return 1;
  }
  tell('closed', {});
  return 0;
}

process.exitCode = main(process.argv.slice(2));
