import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import type { QueueSetup } from './queue-setup.js';
import {
  QUEUE_SIZE_MAX,
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FAILED,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_VERSION_1,
  VIRTIO_MSI_NO_VECTOR,
} from './spec.js';
import type { TransportState } from './transport-state.js';

/** Operations that register writes start. All take effect before they return. */
export interface QueueControl {
  start(queues: readonly QueueSetup[]): void;
  stop(): void;
  /** A started queue has another vector. */
  revector?(): void;
}

/** Feature bits of a device. */
export interface DeviceFeatures {
  readonly offered: bigint;
  /** Features, each with one that a driver has to accept with it. */
  readonly requirements: readonly (readonly [feature: bigint, required: bigint])[];
}

interface Field {
  readonly at: number;
  readonly bytes: 1 | 2 | 4;
  readonly get: () => number;
  readonly set?: (value: number) => void;
}

interface QueueRegisters {
  size: number;
  isEnabled: boolean;
  /** queue_desc, queue_driver and queue_device: low and high words. */
  readonly addresses: Uint32Array;
}

const STATUS_BITS =
  VIRTIO_CONFIG_S_ACKNOWLEDGE |
  VIRTIO_CONFIG_S_DRIVER |
  VIRTIO_CONFIG_S_FEATURES_OK |
  VIRTIO_CONFIG_S_DRIVER_OK |
  VIRTIO_CONFIG_S_FAILED;

const QUEUE_ADDRESS = 0x20;
/** struct virtio_pci_common_cfg without the fields of features that this device does not offer. */
const COMMON_BYTES = 0x38;
const ALIGNMENTS = [16, 2, 4] as const;

const newQueue = (): QueueRegisters => ({
  size: QUEUE_SIZE_MAX,
  isEnabled: false,
  addresses: new Uint32Array(6),
});

const isQueueSize = (size: number): boolean =>
  size > 0 && size <= QUEUE_SIZE_MAX && (size & (size - 1)) === 0;

const isAligned = ({ addresses }: QueueRegisters): boolean =>
  ALIGNMENTS.every((alignment, i) => (addresses[2 * i] as number) % alignment === 0);

function readQueue(state: StateReader, index: number): QueueRegisters {
  const [size, isEnabled] = [state.u16(), state.flag(`queue_enable of queue ${index}`)];
  const queue = { size, isEnabled, addresses: Uint32Array.from({ length: 6 }, () => state.u32()) };
  if (!isQueueSize(size)) state.fail(`queue_size ${size} of queue ${index}`);
  if (isEnabled && !isAligned(queue)) state.fail(`a misaligned ring of queue ${index}`);
  return queue;
}

/** Registers that have been read from a saved state. */
export interface SavedConfig {
  /** Features that the driver has accepted, or is about to. */
  readonly features: bigint;
  readonly isDriverOk: boolean;
  /** Indexes of the queues that are enabled. */
  readonly enabled: readonly number[];
  /** Takes them over; the queues are not started. */
  readonly apply: () => void;
}

const word = (bits: bigint, select: number): number =>
  select < 2 ? Number((bits >> BigInt(32 * select)) & 0xffffffffn) : 0;

/**
 * Common configuration structure: status, feature negotiation and queue setup (4.1.4.3, 3.1). A driver learns of its
 * violations only from the values that it reads back.
 */
export class CommonConfig {
  readonly #offered: bigint;
  readonly #requirements: DeviceFeatures['requirements'];
  readonly #state: TransportState;
  readonly #queues: QueueControl;
  readonly #misuse: (what: string) => void;
  readonly #fieldOf: readonly Field[];

  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #driverFeatures = 0n;
  #status = 0;
  #select = 0;
  #registers: readonly QueueRegisters[] = [];

  /** @param misuse reports a driver's violation */
  constructor(
    { offered, requirements }: DeviceFeatures,
    state: TransportState,
    queues: QueueControl,
    misuse: (what: string) => void,
  ) {
    this.#offered = offered;
    this.#requirements = requirements;
    this.#state = state;
    this.#queues = queues;
    this.#misuse = misuse;
    this.#fieldOf = this.#layOut();
    this.#clear();
  }

  /** The features that the driver has accepted. */
  get features(): bigint {
    return this.#driverFeatures;
  }

  /** device_status, as the driver reads it. */
  get status(): number {
    return this.#status | (this.#state.needsReset ? VIRTIO_CONFIG_S_NEEDS_RESET : 0);
  }

  /** Whether the driver has set the device up, and the queues that it has enabled. */
  get isDriverOk(): boolean {
    return (this.#status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
  }

  /** The queues that are enabled. */
  get setups(): readonly QueueSetup[] {
    return this.#registers.flatMap((queue, index) => (queue.isEnabled ? [this.#setup(index, queue)] : []));
  }

  /** Saves what the driver has written. */
  save(state: StateWriter): void {
    state.u32(this.#deviceFeatureSelect).u32(this.#driverFeatureSelect).u64(this.#driverFeatures);
    state.u8(this.#status).u16(this.#select).u16(this.#registers.length);
    for (const { size, isEnabled, addresses } of this.#registers) {
      state.u16(size).u8(isEnabled ? 1 : 0);
      for (const half of addresses) state.u32(half);
    }
  }

  /** Reads what {@link save} has written, which must be what a driver could have written to this device. */
  readState(state: StateReader): SavedConfig {
    const [deviceSelect, driverSelect, features] = [state.u32(), state.u32(), state.u64()];
    const [status, select] = [state.u8(), state.u16()];
    state.same('number of queues', state.u16(), this.#registers.length);
    const registers = this.#registers.map((_, index) => readQueue(state, index));
    if ((status & ~STATUS_BITS) !== 0) state.fail(`device_status 0x${status.toString(16)}`);
    const [hasFeatures, isDriverOk] = [VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER_OK].map(
      (bit) => (status & bit) !== 0,
    ) as [boolean, boolean];
    const problem = hasFeatures ? this.#featuresProblem(features) : undefined;
    if (problem !== undefined) state.fail(problem);
    if (isDriverOk && !hasFeatures) state.fail('DRIVER_OK without FEATURES_OK');
    return {
      features,
      isDriverOk,
      enabled: registers.flatMap(({ isEnabled }, index) => (isEnabled ? [index] : [])),
      apply: () => {
        this.#deviceFeatureSelect = deviceSelect;
        this.#driverFeatureSelect = driverSelect;
        this.#driverFeatures = features;
        this.#status = status;
        this.#select = select;
        this.#registers = registers;
      },
    };
  }

  /** Value of 1, 2 or 4 bytes; all-ones at an offset without a field. */
  read(offset: number, bytes: number): number {
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) {
      const field = this.#fieldOf[offset + i];
      const byte = field === undefined ? 0xff : (field.get() >>> (8 * (offset + i - field.at))) & 0xff;
      value = value * 256 + byte;
    }
    return value;
  }

  /** 4.1.3.1: a driver uses the field's width, and two halves for 64 bits. Other writes are dropped. */
  write(offset: number, bytes: number, value: number): void {
    const field = this.#fieldOf[offset];
    if (field?.set === undefined || field.at !== offset || field.bytes !== bytes) {
      this.#misuse(`write of ${bytes} bytes to common configuration 0x${offset.toString(16)}`);
      return;
    }
    field.set(value);
  }

  /** Device reset: returns once no queue is processed. 2.4 */
  reset(): void {
    this.#queues.stop();
    this.#state.reset();
    this.#clear();
  }

  #clear(): void {
    this.#deviceFeatureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#driverFeatures = 0n;
    this.#status = 0;
    this.#select = 0;
    this.#registers = Array.from({ length: this.#state.queueCount }, newQueue);
  }

  #layOut(): Field[] {
    const fields: Field[] = [
      {
        at: 0x00,
        bytes: 4,
        get: () => this.#deviceFeatureSelect,
        set: (value) => {
          this.#deviceFeatureSelect = value;
        },
      },
      { at: 0x04, bytes: 4, get: () => word(this.#offered, this.#deviceFeatureSelect) },
      {
        at: 0x08,
        bytes: 4,
        get: () => this.#driverFeatureSelect,
        set: (value) => {
          this.#driverFeatureSelect = value;
        },
      },
      {
        at: 0x0c,
        bytes: 4,
        // Only valid bits of the written value read back.
        get: () => word(this.#driverFeatures & this.#offered, this.#driverFeatureSelect),
        set: (value) => this.#setDriverFeatures(value),
      },
      {
        at: 0x10,
        bytes: 2,
        get: () => this.#state.configVector,
        set: (value) => {
          this.#state.configVector = this.#vector(value);
        },
      },
      { at: 0x12, bytes: 2, get: () => this.#state.queueCount },
      { at: 0x14, bytes: 1, get: () => this.status, set: (value) => this.#setStatus(value) },
      { at: 0x15, bytes: 1, get: () => this.#state.generation },
      {
        at: 0x16,
        bytes: 2,
        get: () => this.#select,
        set: (value) => {
          this.#select = value;
        },
      },
      {
        at: 0x18,
        bytes: 2,
        get: () => this.#queue?.size ?? 0,
        set: (value) => this.#setQueueSize(value),
      },
      {
        at: 0x1a,
        bytes: 2,
        get: () => (this.#queue === undefined ? 0 : this.#state.queueVector(this.#select)),
        set: (value) => {
          if (this.#queue !== undefined) this.#setQueueVector(this.#vector(value));
        },
      },
      {
        at: 0x1c,
        bytes: 2,
        get: () => (this.#queue?.isEnabled ? 1 : 0),
        set: (value) => this.#enableQueue(value),
      },
      // Each queue has a notify address of its own. 4.1.4.4
      { at: 0x1e, bytes: 2, get: () => (this.#queue === undefined ? 0 : this.#select) },
    ];
    for (let i = 0; i < (COMMON_BYTES - QUEUE_ADDRESS) / 4; i++) {
      fields.push({
        at: QUEUE_ADDRESS + 4 * i,
        bytes: 4,
        get: () => this.#queue?.addresses[i] ?? 0,
        set: (value) => this.#setAddress(i, value),
      });
    }
    return fields.flatMap((field) => Array.from({ length: field.bytes }, () => field));
  }

  get #queue(): QueueRegisters | undefined {
    return this.#registers[this.#select];
  }

  /** The selected queue, if it can still be set up. */
  #queueToSetUp(what: string): QueueRegisters | undefined {
    const queue = this.#queue;
    if (queue !== undefined && !queue.isEnabled) return queue;
    this.#misuse(`${what} of queue ${this.#select}, which ${queue ? 'is enabled' : 'does not exist'}`);
    return undefined;
  }

  #setDriverFeatures(value: number): void {
    if ((this.#status & VIRTIO_CONFIG_S_FEATURES_OK) !== 0) {
      this.#misuse('driver_feature written after FEATURES_OK');
      return;
    }
    if (this.#driverFeatureSelect > 1) {
      if (value !== 0) this.#misuse(`driver_feature of select ${this.#driverFeatureSelect}`);
      return;
    }
    const shift = BigInt(32 * this.#driverFeatureSelect);
    this.#driverFeatures = (this.#driverFeatures & ~(0xffffffffn << shift)) | (BigInt(value) << shift);
  }

  /** A nonexistent vector reads back as VIRTIO_MSI_NO_VECTOR. 4.1.5.1.2.1 */
  #vector(value: number): number {
    return value < this.#state.vectorCount ? value : VIRTIO_MSI_NO_VECTOR;
  }

  #setQueueVector(vector: number): void {
    if (this.#state.queueVector(this.#select) === vector) return;
    this.#state.setQueueVector(this.#select, vector);
    if ((this.#status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0) this.#queues.revector?.();
  }

  #setStatus(value: number): void {
    if (value === 0) {
      this.reset();
      return;
    }
    const kept = this.#status & ~value;
    if (kept !== 0) this.#misuse(`device_status bits 0x${kept.toString(16)} cleared without a reset`);
    let added = value & STATUS_BITS & ~this.#status;
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) !== 0 && !this.#acceptsFeatures()) {
      added &= ~VIRTIO_CONFIG_S_FEATURES_OK;
    }
    const hasFeatures = ((this.#status | added) & VIRTIO_CONFIG_S_FEATURES_OK) !== 0;
    if ((added & VIRTIO_CONFIG_S_DRIVER_OK) !== 0 && !hasFeatures) {
      this.#misuse('DRIVER_OK without FEATURES_OK');
      added &= ~VIRTIO_CONFIG_S_DRIVER_OK;
    }
    this.#status |= added;
    if ((added & VIRTIO_CONFIG_S_DRIVER_OK) !== 0) this.#queues.start(this.setups);
  }

  /** FEATURES_OK stays unset for a bit that was not offered or lacks another, or for a legacy driver. 2.2.2, 6.1 */
  #acceptsFeatures(): boolean {
    const problem = this.#featuresProblem(this.#driverFeatures);
    if (problem !== undefined) this.#misuse(problem);
    return problem === undefined;
  }

  /** Why a driver cannot have these features. */
  #featuresProblem(features: bigint): string | undefined {
    const unknown = features & ~this.#offered;
    if (unknown !== 0n) return `features 0x${unknown.toString(16)} were not offered`;
    if ((features & VIRTIO_F_VERSION_1) === 0n) return 'VIRTIO_F_VERSION_1 was not accepted';
    const lacking = this.#requirements.find(
      ([feature, required]) => (features & (feature | required)) === feature,
    );
    if (lacking === undefined) return undefined;
    const [feature, required] = lacking;
    return `feature 0x${feature.toString(16)} without 0x${required.toString(16)}`;
  }

  #setQueueSize(value: number): void {
    const queue = this.#queueToSetUp('queue_size');
    if (queue === undefined) return;
    if (!isQueueSize(value)) {
      this.#misuse(`queue_size ${value}`);
      return;
    }
    queue.size = value;
  }

  #setAddress(index: number, value: number): void {
    const queue = this.#queueToSetUp('address');
    if (queue !== undefined) queue.addresses[index] = value;
  }

  #enableQueue(value: number): void {
    const queue = this.#queueToSetUp('queue_enable');
    if (queue === undefined) return;
    const setup = this.#setup(this.#select, queue);
    if (value !== 1 || !isAligned(queue)) {
      this.#misuse(value === 1 ? 'queue_enable with a misaligned ring' : `queue_enable ${value}`);
      return;
    }
    queue.isEnabled = true;
    if ((this.#status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0) this.#queues.start([setup]);
  }

  #setup(index: number, { size, addresses }: QueueRegisters): QueueSetup {
    const address = (i: number) => addresses[2 * i]! + addresses[2 * i + 1]! * 2 ** 32;
    const accepted = this.#driverFeatures;
    return {
      index,
      size,
      desc: address(0),
      driver: address(1),
      device: address(2),
      hasIndirect: (accepted & VIRTIO_F_INDIRECT_DESC) !== 0n,
      hasEventIdx: (accepted & VIRTIO_F_EVENT_IDX) !== 0n,
    };
  }
}
