/** The state of a virtio function: its registers, where its queues are, and interrupts that wait. */
import { readState, type StateReader, StateWriter } from '../mdev/state-fields.js';
import type { StoppableDevice } from '../mdev/stop-copy-migration.js';
import type { CommonConfig, SavedConfig } from './common-config.js';
import type { PausedQueues } from './messages.js';
import { VIRTIO_PCI_ISR_CONFIG } from './spec.js';
import type { TransportState } from './transport-state.js';

const VERSION = 1;
const NO_QUEUES: PausedQueues = { positions: new Map(), pending: [] };

/** What a type of device adds to the state: its device configuration, and what only it knows of its queues. */
export interface TypeState {
  /** 4 characters, with which its states begin. */
  readonly name: string;
  /** What saves such a state, for a person: `a network card`. */
  readonly description: string;
  /** The length of its states, bytes, if they differ: the most, and that of the one that would be saved now. */
  readonly lengths?: { readonly most: number; readonly now: () => number };
  /** Always of the same length, without {@link lengths}. */
  save(state: StateWriter): void;
  /**
   * Reads what {@link save} has written, of a driver that has these registers. The result takes it over, and returns whether the device
   * configuration is another one than that driver knows, of which it is then told.
   */
  read(state: StateReader, common: SavedConfig): () => boolean;
}

/** Parts of a function's state. */
export interface SavedFunctionParts {
  readonly common: CommonConfig;
  readonly state: TransportState;
  /** Called after its constructor. */
  readonly type: () => TypeState;
  /** Where the queues are. The result is called while the device is stopped. */
  readonly paused: () => PausedQueues;
  /** Has the queues go on there. */
  readonly setPaused: (paused: PausedQueues) => void;
}

/**
 * Configuration space and eventfds are their user's to restore, as with vfio-pci: MSI-X vectors whose eventfd comes later are
 * sent then.
 */
export function functionState(
  { common, state, type, paused, setPaused }: SavedFunctionParts,
  motion: Pick<StoppableDevice, 'stop' | 'start'>,
): StoppableDevice {
  const { queueCount, vectorCount } = state;

  function encodeFunction({ positions, pending }: PausedQueues): StateWriter {
    const out = new StateWriter(type().name, VERSION);
    common.save(out);
    state.save(out);
    for (let queue = 0; queue < queueCount; queue++) {
      const position = positions.get(queue);
      out.u8(position === undefined ? 0 : 1).u16(position ?? 0);
    }
    for (let vector = 0; vector < vectorCount; vector++) out.u8(pending.includes(vector) ? 1 : 0);
    return out;
  }

  /** Length of a state, of which the type has as much. */
  const lengthWith = (typeBytes: number): number => encodeFunction(NO_QUEUES).finish().length + typeBytes;

  function encode(queues: PausedQueues): Uint8Array {
    const out = encodeFunction(queues);
    type().save(out);
    return out.finish();
  }

  function decode(reader: StateReader) {
    const registers = common.readState(reader);
    const shared = state.readState(reader);
    const positions = new Map<number, number>();
    for (let queue = 0; queue < queueCount; queue++) {
      const [isRunning, position] = [reader.flag(`whether queue ${queue} runs`), reader.u16()];
      if (!isRunning) continue;
      if (!registers.isDriverOk || !registers.enabled.includes(queue))
        reader.fail(`queue ${queue} runs, which is not enabled`);
      positions.set(queue, position);
    }
    const vectors = Array.from({ length: vectorCount }, (_, vector) => reader.flag(`vector ${vector}`));
    const pending = vectors.flatMap((isPending, vector) => (isPending ? [vector] : []));
    return { registers, shared, positions, pending, typed: type().read(reader, registers) };
  }

  return {
    get stateBytes() {
      const { lengths } = type();
      return lengths === undefined ? encode(NO_QUEUES).length : lengthWith(lengths.most);
    },
    get estimateBytes() {
      const { lengths } = type();
      return lengths === undefined ? undefined : () => lengthWith(lengths.now());
    },
    get description() {
      return type().description;
    },
    ...motion,
    save: () => encode(paused()),
    load(data) {
      const saved = readState(data, type().name, VERSION, decode);
      if (typeof saved === 'string') return saved;
      const { registers, shared, positions, pending, typed } = saved;
      common.reset();
      registers.apply();
      shared();
      const isChanged = typed();
      if (isChanged && registers.isDriverOk) {
        state.raiseIsr(VIRTIO_PCI_ISR_CONFIG);
        if (state.configVector < vectorCount) pending.push(state.configVector);
      }
      setPaused({ positions, pending });
      return true;
    },
  };
}
