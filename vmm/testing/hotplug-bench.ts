/** A machine without a vCPU, for tests of hotplug: the core's devices, a PC's PCI bus and ACPI hotplug, KVM as fakes. */

import { createMttyDriver } from '../../devices/mtty/driver.js';
import { start as startLineTask } from '../../devices/mtty/line-task.js';
import { assignBars } from '../../devices/pci/bar-assignment.js';
import { PciHost } from '../../devices/pci/host-bridge.js';
import {
  PCI_CAP_ID_MSIX,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_VENDOR_ID,
} from '../../devices/pci/pci-regs.js';
import {
  PCI_HOTPLUG_DOWN,
  PCI_HOTPLUG_EJECT,
  PCI_HOTPLUG_STATUS,
  PCI_HOTPLUG_UP,
  PciHotplug,
} from '../../devices/platform/pci-hotplug.js';
import { start as startCardTask } from '../../devices/testcard/card-task.js';
import { createTestCardDriver } from '../../devices/testcard/index.js';
import { type FakeEnvironment, fakeEnvironment } from '../../devices/testing/fake-ports.js';
import { walkCapabilities } from '../../devices/vfio-pci/capabilities.js';
import { VfioPciFunctions } from '../../devices/vfio-pci/functions.js';
import { createVgpuDriver } from '../../devices/vgpu/index.js';
import { createQueueTask, createVirtioNetDriver, netBackends } from '../../devices/virtio-net/index.js';
import { formatRange } from '../../sys/address.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { disposable, type Scope } from '../../sys/scope.js';
import { openFds } from '../../sys/testing/open-fds.js';
import { Assignment } from '../../vfio/assign/index.js';
import { VfioCore } from '../../vfio/core/core.js';
import type { MdevType, VendorDriver } from '../../vfio/driver.js';
import { FaultInjector } from '../../vfio/testing/fault-injector.js';
import { faultyProvider } from '../../vfio/testing/faulty-provider.js';
import { ScriptedVm } from '../../vfio/testing/scripted-kvm.js';
import { joinFileOps } from '../assign/file-ops.js';
import type { MemoryMap, MemorySlotPort } from '../assign/memory-map.js';
import { pcMemory } from '../assign/testing.js';
import { AssignedDevices } from '../assigned-devices.js';
import { type DeviceConfig, parseDevices } from '../config.js';
import { checkDevices } from '../device-check.js';
import { Hotplug } from '../hotplug.js';
import * as layout from '../layout.js';
import { PAIR, pairProvider } from './pair-provider.js';

const RAM_BYTES = 0x20_0000n;
const WINDOWS = [layout.PCI_WINDOW, layout.PCI_WINDOW_64, layout.PCI_IO_WINDOW];

/** The guest's accesses: configuration space, and the registers that its AML uses. */
export interface BenchGuest {
  /** Slots in which configuration space answers. */
  present(): number[];
  /** What its event handler finds: slots to check, and slots to eject. Clears both. */
  events(): { readonly up: number[]; readonly down: number[] };
  ejects(slot: number): void;
  reports(slot: number, event: number, status: number): void;
  /** Places all BARs, lets all devices decode memory and do DMA, and enables their MSI-X. */
  enableAll(): void;
}

export interface BenchOptions {
  /** Whether the guest knows ACPI hotplug; true if absent. */
  readonly hasAcpi?: boolean;
  /** Whether calls of the provider and its files can be made to fail, too; false if absent. */
  readonly hasFaultyFiles?: boolean;
}

/** What must be as before once devices are gone. */
export interface BenchState {
  readonly fds: number;
  readonly live: Readonly<Record<string, number>>;
  readonly slots: readonly string[];
  readonly maps: readonly (readonly string[])[];
  readonly files: number;
  readonly lines: number;
  readonly ranges: number;
  readonly doorbells: number;
  readonly watches: number;
}

export interface Bench {
  readonly assignment: Assignment;
  readonly devices: AssignedDevices;
  readonly hotplug: Hotplug;
  readonly guest: BenchGuest;
  readonly faults: FaultInjector;
  /** Configuration space, buses and interrupts as the guest uses them; the devices' tasks. */
  readonly machine: {
    readonly pci: PciHost;
    readonly fakes: FakeEnvironment;
    readonly memory: MemoryMap;
    readonly tasks: InlineEventThread;
  };
  /** Each set of devices that was reported as changed, as their slots. */
  readonly changes: number[][];
  /** Files of the devices' groups or cdevs as they are associated with the VM: `add group 3 (core)`, `remove ...`. */
  readonly associated: string[];
  /** Ranges of guest memory: RAM and the BARs mapped now. */
  memory(): string[];
  state(): BenchState;
}

/** By slot and name. */
export const config = (address: string, more: Partial<DeviceConfig> = {}): DeviceConfig =>
  parseDevices([{ address, ...more }])[0] as DeviceConfig;

/** Besides the core's mediated devices, it has the two functions of {@link PAIR}. */
export function hotplugBench(
  scope: Scope,
  { hasAcpi = true, hasFaultyFiles = false }: BenchOptions = {},
): Bench {
  const faults = new FaultInjector();
  const slots = new Set<string>();
  const slotPort: MemorySlotPort = {
    add(gpa, _hva, bytes) {
      const range = formatRange(gpa, bytes);
      slots.add(range);
      return disposable(() => slots.delete(range));
    },
  };
  const memory = pcMemory(scope, RAM_BYTES, faults.wrap('slots', slotPort));
  const queues = new URL('test:queue-task');
  const line = new URL('test:line-task');
  const card = new URL('test:card-task');
  const eventThread = scope.own(
    new InlineEventThread(
      new Map([
        [queues.href, createQueueTask(netBackends)],
        [line.href, startLineTask],
        [card.href, startCardTask],
      ]),
    ),
  );
  const core = scope.own(
    new VfioCore({
      ports: {
        allocate: (what) => faults.call(`allocate ${what}`),
        warn: (text) => {
          throw new Error(text);
        },
      },
    }),
  );
  const tables = new Set<SharedArrayBuffer>();
  const nic = createVirtioNetDriver({ backends: netBackends, task: queues });
  const display = createVgpuDriver();
  const drivers = [nic, createMttyDriver(line), display, createTestCardDriver(card)];
  const driverPorts = { eventThread: faults.wrap('event', eventThread) };
  for (const driver of drivers) scope.own(core.registerVendorDriver(seen(driver, tables), driverPorts));
  const pairOps = (driver: VendorDriver, address: string) =>
    scope.own(seen(driver, tables).create(driver.types[0] as MdevType, address, {}, driverPorts)).ops;
  const pair = pairProvider(scope, core, [pairOps(display, PAIR[0]), pairOps(nic, PAIR[1])]);
  const real = [pair, core.provider];
  const providers = hasFaultyFiles ? real.map((each) => faultyProvider(faults, each)) : real;
  const vm = new ScriptedVm();
  const kvmVfio = scope.own(vm.createKvmVfio(joinFileOps(providers)));
  const associated: string[] = [];
  let files = 0;
  const association = faults.wrap('kvm-vfio', {
    addFile(file: Parameters<typeof kvmVfio.addFile>[0]) {
      kvmVfio.addFile(file);
      associated.push(`add ${file.target}`);
      files++;
    },
    removeFile(file: Parameters<typeof kvmVfio.addFile>[0]) {
      kvmVfio.removeFile(file);
      associated.push(`remove ${file.target}`);
      files--;
    },
  });
  const fakes = fakeEnvironment(WINDOWS);
  const environment = {
    ...fakes,
    memory,
    interrupts: faults.wrap('interrupts', fakes.interrupts),
    signals: faults.wrap('signals', fakes.signals),
  };
  const assignment = scope.own(
    new Assignment({ memory, association, providers, functions: new VfioPciFunctions(environment) }),
  );
  const pci = PciHost.create();
  const changes: number[][] = [];
  const registers = new PciHotplug({
    raiseGpe: () => {},
    eject: (slot) => hotplug.ejected(slot),
    report: (slot, event, status) => hotplug.reported(slot, event, status),
  });
  const devices = scope.own(
    new AssignedDevices({ assignment, pci, requested: (slot) => hotplug.requested(slot) }),
  );
  const hotplug = new Hotplug({
    devices,
    guest: hasAcpi ? registers : undefined,
    check: (configs) => checkDevices(providers, configs),
    changed: (now) => changes.push(now.map(({ slot }) => slot ?? 0)),
  });
  const bare = [...slots];
  return {
    assignment,
    devices,
    hotplug,
    faults,
    changes,
    associated,
    guest: benchGuest(pci, registers),
    machine: { pci, fakes, memory, tasks: eventThread },
    memory: () => [...slots].sort(),
    state: () => ({
      fds: openFds().length,
      live: Object.fromEntries(core.live),
      slots: [...slots].filter((range) => !bare.includes(range)).sort(),
      maps: [...tables].map(rangesOf),
      files,
      lines: fakes.interrupts.lines.size + fakes.interrupts.levels.size,
      ranges: fakes.mmio.ranges.length + fakes.pio.ranges.length,
      doorbells: fakes.doorbells.bells.length,
      watches: fakes.signals.watched.size,
    }),
  };
}

/** The driver, whose open devices' DMA tables are in `tables`. */
function seen(driver: VendorDriver, tables: Set<SharedArrayBuffer>): VendorDriver {
  return {
    name: driver.name,
    types: driver.types,
    checkOptions: (type, options) => driver.checkOptions?.(type, options),
    create(...parameters) {
      const instance = driver.create(...parameters);
      const { ops } = instance;
      const [open, close] = [ops.openDevice.bind(ops), ops.closeDevice.bind(ops)];
      let table: SharedArrayBuffer | undefined;
      ops.openDevice = (opened) => {
        open(opened);
        table = opened.dma.table;
        if (table !== undefined) tables.add(table);
      };
      ops.closeDevice = () => {
        if (table !== undefined) tables.delete(table);
        close();
      };
      return instance;
    },
  };
}

/** What a device can reach: the table's entries. @see vfio/dma-table.ts */
function rangesOf(table: SharedArrayBuffer): string[] {
  const count = new Int32Array(table)[2] as number;
  const entries = new Float64Array(table, 16);
  return Array.from({ length: count }, (_, i) =>
    formatRange(BigInt(entries[4 * i] as number), BigInt(entries[4 * i + 1] as number)),
  ).sort();
}

const SLOTS = Array.from({ length: 31 }, (_, i) => i + 1);
const slotsIn = (bits: number): number[] => SLOTS.filter((slot) => ((bits >>> slot) & 1) === 1);

function benchGuest(pci: PciHost, registers: PciHotplug): BenchGuest {
  const read = (offset: number): number => {
    const data = new Uint8Array(4);
    registers.read(offset, data);
    return new DataView(data.buffer).getUint32(0, true);
  };
  const functions = () =>
    [...pci.entries()].filter(({ slot }) => slot.device > 0).map((each) => each.function);
  const write = (offset: number, value: number) =>
    registers.write(offset, new Uint8Array(Uint32Array.of(value).buffer));
  const vendor = (slot: number): number => {
    const data = new Uint8Array(2);
    pci.ecam.read((slot << 15) + PCI_VENDOR_ID, data);
    return new DataView(data.buffer).getUint16(0, true);
  };
  return {
    present: () => SLOTS.filter((slot) => vendor(slot) !== 0xffff),
    events: () => ({ up: slotsIn(read(PCI_HOTPLUG_UP)), down: slotsIn(read(PCI_HOTPLUG_DOWN)) }),
    ejects: (slot) => write(PCI_HOTPLUG_EJECT, 2 ** slot),
    reports: (slot, event, status) => write(PCI_HOTPLUG_STATUS, (slot | (event << 8) | (status << 24)) >>> 0),
    enableAll() {
      assignBars(functions(), WINDOWS);
      for (const each of functions()) {
        each.configWrite(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        const capabilities = walkCapabilities((offset, bytes) => each.configRead(offset, bytes));
        const msix = capabilities.find(({ id }) => id === PCI_CAP_ID_MSIX);
        if (msix !== undefined) each.configWrite(msix.offset + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
      }
    },
  };
}
