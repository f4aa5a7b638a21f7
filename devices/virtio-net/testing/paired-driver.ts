/** The driver's side of a device with several queue pairs, written from the specification's text (5.1.2, 5.1.6.5). */
import { FEATURE, type GuestDriver, GuestQueue, maps, STATUS } from './guest.js';

/** Where the queues are; each takes 16 KiB. */
const QUEUES_AT = maps.main.iova + 0x2_0000;
const QUEUE_BYTES = 0x4000;
/** Requests and their answers, and frames to send. */
const REQUESTS_AT = maps.main.iova + 0x1_8000;
const FRAMES_AT = maps.next.iova + 0x8_0000;
const FRAME_BYTES = 2048;

export const CTRL_MQ = 4;
/** What the driver writes where the answer goes. */
export const UNANSWERED = 0xee;

/** What {@link PairedDriver.start} may be told. */
export interface PairedOptions {
  readonly features?: bigint;
  /** Pairs to set up, of those that the device has. */
  readonly pairs?: number;
  readonly queueSize?: number;
}

/** Brings a device up with all of its queues. Vector 0 is the configuration's, and 1 + i that of queue i. */
export class PairedDriver {
  readonly driver: GuestDriver;
  rx: readonly GuestQueue[] = [];
  tx: readonly GuestQueue[] = [];
  control!: GuestQueue;
  /** Index of the control queue. */
  controlIndex = 0;
  #frames = 0;

  constructor(driver: GuestDriver) {
    this.driver = driver;
  }

  get mostPairs(): number {
    return this.driver.deviceConfig(8, 2);
  }

  start({
    features = this.driver.offered,
    pairs = this.mostPairs,
    queueSize = 256,
  }: PairedOptions = {}): void {
    const { driver } = this;
    driver.negotiate(features);
    driver.commonWrite(0x10, 2, 0);
    const queue = (index: number): GuestQueue => {
      const made = new GuestQueue(driver.memory, queueSize, QUEUES_AT + QUEUE_BYTES * index);
      driver.setUpQueue(index, made, 1 + index);
      return made;
    };
    this.rx = Array.from({ length: pairs }, (_, pair) => queue(2 * pair));
    this.tx = Array.from({ length: pairs }, (_, pair) => queue(2 * pair + 1));
    this.controlIndex = (features & FEATURE.mq) === 0n ? 2 : 2 * this.mostPairs;
    if ((features & FEATURE.ctrlVq) !== 0n) this.control = queue(this.controlIndex);
    driver.status |= STATUS.driverOk;
  }

  /** Sends a frame by a pair. */
  send(pair: number, frame: Uint8Array): void {
    const { driver } = this;
    const address = FRAMES_AT + FRAME_BYTES * (this.#frames++ % 128);
    driver.memory.bytes.fill(0, driver.memory.at(address), driver.memory.at(address) + 12);
    driver.memory.bytes.set(frame, driver.memory.at(address + 12));
    this.tx[pair]?.add([{ address, length: 12 + frame.length }]);
    driver.ring(2 * pair + 1);
  }

  /** Offers a receive buffer of a pair. */
  provide(pair: number, address: number, length = 2048): void {
    this.rx[pair]?.add([{ address, length, isDeviceWritable: true }]);
    this.driver.ring(2 * pair);
  }

  /** Offers a request, and rings. The result reads its answer. */
  request(bytes: readonly number[], at = REQUESTS_AT): () => number {
    const { memory } = this.driver;
    memory.bytes.set(bytes, memory.at(at));
    const answerAt = at + 0x800;
    memory.bytes[memory.at(answerAt)] = UNANSWERED;
    const body = bytes.length === 0 ? [] : [{ address: at, length: bytes.length }];
    this.control.add([...body, { address: answerAt, length: 1, isDeviceWritable: true }]);
    this.driver.ring(this.controlIndex);
    return () => memory.bytes[memory.at(answerAt)] as number;
  }

  /** VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET. */
  setPairs(pairs: number): () => number {
    return this.request([CTRL_MQ, 0, pairs & 0xff, pairs >>> 8]);
  }
}
