import type { InputEvent } from '../../vfio/driver.js';
import type { ControlledMachine } from '../api/routes.js';
import { parseConfig, parseDevices } from '../config.js';
import { ConsoleRing } from '../console-ring.js';
import type { ScreenSize } from '../display/screen-size.js';
import type { DeviceState, MemoryRange, TimelineRecord } from '../inspection.js';
import type { MoveOptions } from '../move/source.js';
import type { Counters, RunReport } from '../protocol.js';
import type { SnapshotOptions } from '../snapshot/unplugged-save.js';
import type { MachineInfo } from '../virtual-machine.js';

/** A machine for an API: it shows what a test gives it, and records what it is told. */
export class FakeControlledMachine implements ControlledMachine {
  readonly calls: string[] = [];
  readonly console = new ConsoleRing();
  readonly config = parseConfig({ devices: [{ address: 'virtio-net' }] });
  state: MachineInfo['state'] = 'running';
  restarts = 0;
  /** What the calls that change it fail with. */
  failure: Error | undefined;
  /** What its readings fail with. */
  refusal: Error | undefined;
  counts: Counters = { exits: { io: 3 }, accesses: {}, devices: [] };
  devices: readonly DeviceState[] = [];
  memory: readonly MemoryRange[] = [];
  record: TimelineRecord = { events: [], dropped: 0 };
  /** What was typed and taken. */
  typed = '';
  /** How many bytes the guest takes; it then reads no more until {@link takeTyped}. */
  room = Number.POSITIVE_INFINITY;
  readonly #untaken: (() => void)[] = [];
  readonly finished: Promise<RunReport>;
  #settle!: (report: RunReport) => void;
  #fail!: (error: Error) => void;

  constructor() {
    this.finished = new Promise((resolve, reject) => {
      this.#settle = resolve;
      this.#fail = reject;
    });
    this.finished.catch(() => {});
  }

  /** @param how its report, or the error that ends it */
  end(how: RunReport | Error = new Error('ended')): void {
    this.state = 'ended';
    if (how instanceof Error) this.#fail(how);
    else this.#settle(how);
  }

  async #do(call: string): Promise<void> {
    this.calls.push(call);
    if (this.failure !== undefined) throw this.failure;
  }

  async #read<T>(value: T): Promise<T> {
    if (this.refusal !== undefined) throw this.refusal;
    return value;
  }

  info(): MachineInfo {
    const { state, restarts, config } = this;
    return { state, uptimeMs: 5, restarts, outcome: undefined, failure: undefined, config };
  }
  pause = () => this.#do('pause');
  resume = () => this.#do('resume');
  reset = () => this.#do('reset');
  inject = (slot: number, faults: string, number = 0) => this.#do(`inject ${slot} ${faults} ${number}`);
  input = (slot: number, events: readonly InputEvent[], number: number = 0) => {
    const texts = events.map(({ type, code, value }) => `${type}:${code}:${value}`);
    return this.#do(`input ${slot} ${texts.join(',')} ${number}`);
  };
  resize = (slot: number | undefined, { width, height }: ScreenSize, head = 0) =>
    this.#do(`resize ${slot} ${width}x${height} ${head}`);
  snapshot = async (folder: string, options: SnapshotOptions = {}) => {
    const how = Object.keys(options).length === 0 ? '' : ` ${JSON.stringify(options)}`;
    await this.#do(`snapshot ${folder}${how}`);
    return { folder, stateBytes: 70_000, memoryBytes: 1 << 20, ms: 12.3 };
  };
  migrateTo = async (address: string, { signal: _, ...options }: MoveOptions = {}) => {
    await this.#do(`move ${address} ${JSON.stringify(options)}`);
    return { rounds: 3, sentBytes: 1 << 20, downtimeMs: 12.5, ms: 400 };
  };
  pressPowerButton = () => void this.calls.push('power-button');
  stop = (by?: string) => void this.calls.push(`stop ${by}`);
  counters = () => this.#read(this.counts);
  timeline = () => this.#read(this.record);
  inspectDevices = () => this.#read(this.devices);
  inspectMemory = () => this.#read(this.memory);
  screenshot = async (slot?: number, head?: number) => {
    await this.#do(`screenshot ${slot}${head === undefined ? '' : ` ${head}`}`);
    return new Uint8Array([1, 2, 3]);
  };
  attach = (async (given: object) => {
    const devices = parseDevices(Array.isArray(given) ? given : [given]);
    await this.#do(`attach ${JSON.stringify(devices.map(({ address, options }) => [address, options]))}`);
    const slots = devices.map((_, i) => i + 3);
    return Array.isArray(given) ? slots : slots[0];
  }) as ControlledMachine['attach'];
  detach = (slot: number, options?: object) => this.#do(`detach ${slot} ${JSON.stringify(options)}`);

  async typeSerial(bytes: Uint8Array): Promise<boolean> {
    if (this.failure !== undefined) throw this.failure;
    while (this.room < bytes.length && this.state !== 'ended')
      await new Promise<void>((resolve) => this.#untaken.push(resolve));
    if (this.state === 'ended') return false;
    this.room -= bytes.length;
    this.typed += Buffer.from(bytes).toString();
    return true;
  }

  /** The guest reads what was typed. */
  takeTyped(bytes: number): void {
    this.room += bytes;
    for (const go of this.#untaken.splice(0)) go();
  }
}
