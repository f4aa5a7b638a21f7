import type { EventThread } from '../../sys/event-task.js';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevInstance, MdevType, VendorDriver, VendorEnvironment } from '../../vfio/driver.js';
import { optionProblem } from '../../vfio/option-problem.js';
import type { SriovFunctions } from '../../vfio/sriov.js';
import { createIntxPin } from '../mdev/intx-pin.js';
import { createMessageSignals } from '../mdev/message-signals.js';
import { Boards } from './boards.js';
import { CardState, createCardState } from './card-state.js';
import { TestCardDevice } from './device.js';
import { failingOps } from './failing-ops.js';
import type { FaultName } from './faults.js';
import type { CardTaskData } from './messages.js';
import { parseOptions, type TestCardOptions, vfOptions } from './options.js';
import {
  DOORBELLS,
  PCI_DEVICE_ID_TESTCARD_VF,
  RAM_BAR,
  REGISTER_BAR,
  REGISTER_BAR_BYTES,
  SMALL_BAR,
  SMALL_BAR_BYTES,
  SRIOV_AT,
} from './spec.js';

/** An instance of the test card. */
export interface TestCardInstance extends MdevInstance {
  /** As the option `fault=`, from now on, beside those that it has. @see AssignableDevice.inject */
  inject(faults: string): void;
  /** The faults that it has. */
  readonly faults: readonly FaultName[];
  /** Interrupts and doorbells so far. */
  counters(): Readonly<Record<'interrupts' | 'doorbells', number>>;
  vectorCounts(): readonly number[];
}

/** A vendor driver whose instances are {@link TestCardInstance}. */
export interface TestCardDriver extends VendorDriver {
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): TestCardInstance;
}

const MAX_INSTANCES = 32;
const builtIn = workerUrl('devices/testcard/card-task.js');

/**
 * The vendor driver `testcard`: a PCI Express card for tests of those who use devices, with every kind of BAR, INTx, MSI, MSI-X,
 * resets, a DMA engine, doorbells, and faults to choose: docs/test-card.md. `create` throws SysError EINVAL for an invalid
 * option, ENOMEM if there is no memory for BAR 2.
 * @param module of the event task; the package's own if absent
 */
export function createTestCardDriver(module: URL = builtIn): TestCardDriver {
  const boards = new Boards();
  return {
    name: 'testcard',
    types: [
      {
        name: 'testcard',
        description: 'PCI Express card for tests, whose faults can be chosen (fault=)',
        deviceApi: 'vfio-pci',
        maxInstances: MAX_INSTANCES,
        options: [
          { name: 'intx', value: 'on|off', description: 'whether it has an interrupt pin, by default on' },
          { name: 'msi', value: 'N', description: 'messages of MSI: 0, 1, 2, 4, 8, 16 or 32, by default 4' },
          { name: 'vectors', value: 'N', description: 'vectors of MSI-X, 0 to 2048, by default 8' },
          { name: 'reset', value: 'flr|pm|af|none', description: 'how it can be reset, by default flr' },
          {
            name: 'board',
            value: 'NAME',
            description:
              'a slot that it shares with the cards of the same board: they have a hot reset together',
          },
          { name: 'express', value: 'on|off', description: 'whether it is PCI Express, by default on' },
          {
            name: 'ram',
            value: 'SIZE',
            description: 'memory of BAR 2, a power of two up to 1G, by default 1M',
          },
          {
            name: 'rom',
            value: 'SIZE',
            description: 'bytes of the expansion ROM, by default 4K; 0 for none',
          },
          {
            name: 'migration',
            value: 'off|stop-copy|p2p|pre-copy|all',
            description: 'how it migrates: with P2P states, PRE_COPY, or both (all), by default stop-copy',
          },
          {
            name: 'vfs',
            value: 'N',
            description:
              'virtual functions that a guest can enable (SR-IOV), 0 to 7, by default 0; not of a served card',
          },
          { name: 'fault', value: 'NAME[:N][+NAME...]', description: 'faults that it has from the start' },
          { name: 'fail', value: 'CALL:ERRNO[:NTH][+...]', description: 'calls of VFIO that fail' },
        ],
      },
    ],
    checkOptions: (_type, options) => optionProblem(() => parseOptions(options, '')),
    create: (type, uuid, options, { eventThread }) =>
      createCard(
        { name: type.name, uuid, module, boards, eventThread },
        parseOptions(options, `${type.name} ${uuid}`),
      ),
  };
}

/** Where a card is created. */
interface CardSite {
  readonly name: string;
  readonly uuid: string;
  readonly module: URL;
  readonly boards: Boards;
  readonly eventThread: EventThread;
}

function createCard(site: CardSite, options: TestCardOptions): TestCardInstance {
  const { name, uuid, module, boards, eventThread } = site;
  using scope = new Scope();
  const shared = { state: createCardState(), pin: createIntxPin(), signals: createMessageSignals() };
  const doorbells = Array.from({ length: DOORBELLS }, () => scope.own(Fd.eventfd('testcard doorbell')));
  const data: CardTaskData = { ...shared, doorbells: doorbells.map(({ number }) => number) };
  const task = scope.own(eventThread.run(module, data));
  const state = new CardState(shared);
  scope.defer(() => boards.tidy());
  const board = options.board === undefined ? undefined : boards.find(options.board);
  const device = scope.own(new TestCardDevice({ name, options, state, task, doorbells, board }));
  if (board !== undefined) scope.own(board.add(uuid, device));
  const owned = scope.move();
  return {
    ops: failingOps(device, options.failures),
    inject: (faults) => device.inject(faults),
    get faults() {
      return device.faults.names;
    },
    counters: () => ({ interrupts: state.interrupts, doorbells: state.get('doorbells') }),
    vectorCounts: () => state.signals.sentByMessage,
    ...(options.vfs > 0 && { sriov: cardVfs(site, options) }),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

/** A card's virtual functions are cards, too. */
const cardVfs = (site: CardSite, options: TestCardOptions): SriovFunctions<TestCardInstance> => ({
  capabilityAt: SRIOV_AT,
  totalVfs: options.vfs,
  deviceId: PCI_DEVICE_ID_TESTCARD_VF,
  bars: [
    { index: REGISTER_BAR, kind: 'memory32', isPrefetchable: false, size: BigInt(REGISTER_BAR_BYTES) },
    { index: RAM_BAR, kind: 'memory64', isPrefetchable: true, size: BigInt(options.ramBytes) },
    { index: SMALL_BAR, kind: 'memory32', isPrefetchable: false, size: BigInt(SMALL_BAR_BYTES) },
  ],
  create: (index) => createCard({ ...site, name: `${site.name} VF ${index}` }, vfOptions(options)),
});
