import { readSync, writeSync } from 'node:fs';
import { hva } from '../../../sys/address.js';
import { Fd } from '../../../sys/fd.js';
import { viewOf } from '../../../sys/mapping.js';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../feature.js';
import { DeviceFeature } from '../structs.js';
import {
  FeatureDmaLoggingControl,
  FeatureDmaLoggingRange,
  FeatureDmaLoggingReport,
  FeatureMigDataSize,
  FeatureMigration,
  FeatureMigState,
} from '../structs-feature.js';
import { argszOf, refuse } from './call.js';

/** A feature of a device. */
export interface FakeFeature {
  /** VFIO_DEVICE_FEATURE_GET and _SET as it supports them. */
  readonly supported: number;
  /** Bytes of its structure. */
  readonly bytes: number;
  /** Reads and fills in the structure. */
  run(isSet: boolean, data: Uint8Array): void;
}

const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;

/** A feature that gives back what was set last. */
export function storedFeature(bytes: number): FakeFeature {
  const stored = new Uint8Array(bytes);
  return {
    supported: GET | SET,
    bytes,
    run(isSet, data) {
      if (isSet) stored.set(data);
      else data.set(stored);
    },
  };
}

/** @see vfio_ioctl_device_feature and vfio_check_feature */
export function runFeature(features: ReadonlyMap<number, FakeFeature> | undefined, bytes: Uint8Array): void {
  const argsz = argszOf(bytes, DeviceFeature.size);
  const { flags } = DeviceFeature.decode(bytes);
  const isProbe = (flags & VFIO_DEVICE_FEATURE_PROBE) !== 0;
  const known = VFIO_DEVICE_FEATURE_MASK | GET | SET | VFIO_DEVICE_FEATURE_PROBE;
  const access = flags & (GET | SET);
  if ((flags & ~known) !== 0 || (!isProbe && access === (GET | SET))) refuse('EINVAL');
  const feature = features?.get(flags & VFIO_DEVICE_FEATURE_MASK) ?? refuse('ENOTTY');
  if ((access & ~feature.supported) !== 0) refuse('EINVAL');
  if (isProbe) return;
  if (access === 0 || argsz < DeviceFeature.size + feature.bytes) refuse('EINVAL');
  feature.run(access === SET, bytes.subarray(DeviceFeature.size, DeviceFeature.size + feature.bytes));
}

/** A device that stops, saves its state in a file, and takes such a file; descriptors are those of this process. */
export class FakeMigration implements Disposable {
  deviceState: number = VFIO_DEVICE_STATE_RUNNING;
  /** What is saved, and what was last loaded. */
  content: Uint8Array;
  #incoming: Fd | undefined;

  constructor(content: Uint8Array) {
    this.content = content;
  }

  get features(): readonly (readonly [number, FakeFeature])[] {
    return [
      [
        VFIO_DEVICE_FEATURE_MIGRATION,
        {
          supported: GET,
          bytes: FeatureMigration.size,
          run: (_isSet, data) =>
            void FeatureMigration.write(data, { flags: BigInt(VFIO_MIGRATION_STOP_COPY) }),
        },
      ],
      [
        VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
        {
          supported: GET,
          bytes: FeatureMigDataSize.size,
          run: (_isSet, data) =>
            void FeatureMigDataSize.write(data, { stop_copy_length: BigInt(this.content.length) }),
        },
      ],
      [
        VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
        {
          supported: GET | SET,
          bytes: FeatureMigState.size,
          run: (isSet, data) => this.#state(isSet, data),
        },
      ],
    ];
  }

  #state(isSet: boolean, data: Uint8Array): void {
    if (!isSet) {
      FeatureMigState.write(data, { device_state: this.deviceState, data_fd: -1 });
      return;
    }
    const { device_state: wanted } = FeatureMigState.decode(data);
    if (wanted < VFIO_DEVICE_STATE_STOP || wanted > VFIO_DEVICE_STATE_RESUMING) refuse('EINVAL');
    const data_fd = this.deviceState === wanted ? -1 : this.#leaveAndEnter(wanted);
    this.deviceState = wanted; // a state that cannot be loaded leaves it as it was
    FeatureMigState.write(data, { data_fd });
  }

  /** The descriptor that the arc gives: the caller's. */
  #leaveAndEnter(to: number): number {
    if (this.#incoming !== undefined) {
      const loaded = new Uint8Array(this.content.length);
      if (readSync(this.#incoming.number, loaded, 0, loaded.length, 0) < loaded.length) refuse('EINVAL');
      this.content = loaded;
      this[Symbol.dispose]();
    }
    const file = Fd.memfd('fake migration');
    if (to === VFIO_DEVICE_STATE_STOP_COPY) writeSync(file.number, this.content, 0, this.content.length, 0);
    else if (to === VFIO_DEVICE_STATE_RESUMING) this.#incoming = file.duplicate();
    else {
      file[Symbol.dispose]();
      return -1;
    }
    return file.number;
  }

  [Symbol.dispose](): void {
    this.#incoming?.[Symbol.dispose]();
    this.#incoming = undefined;
  }
}

/** Dirty logging of a device that always writes every other page. */
export class FakeDmaLogging {
  /** What it was started with. */
  ranges: readonly { readonly iova: bigint; readonly length: bigint }[] | undefined;

  get features(): readonly (readonly [number, FakeFeature])[] {
    return [
      [
        VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
        { supported: SET, bytes: FeatureDmaLoggingControl.size, run: (_isSet, data) => this.#start(data) },
      ],
      [
        VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
        {
          supported: SET,
          bytes: 0,
          run: () => {
            this.ranges = undefined;
          },
        },
      ],
      [
        VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
        { supported: GET, bytes: FeatureDmaLoggingReport.size, run: (_isSet, data) => this.#report(data) },
      ],
    ];
  }

  #start(data: Uint8Array): void {
    const { page_size, num_ranges, ranges } = FeatureDmaLoggingControl.decode(data);
    if (num_ranges === 0 || page_size === 0n) refuse('EINVAL');
    const bytes = num_ranges * FeatureDmaLoggingRange.size;
    const { view, at } = viewOf(hva(ranges), BigInt(bytes), 'copy_from_user');
    const list = view.slice(at, bytes);
    this.ranges = Array.from({ length: num_ranges }, (_, i) =>
      FeatureDmaLoggingRange.decode(list, i * FeatureDmaLoggingRange.size),
    );
    // Like a device that tracks by larger pages.
    FeatureDmaLoggingControl.write(data, { page_size: page_size * 2n });
  }

  #report(data: Uint8Array): void {
    const { length, page_size, bitmap } = FeatureDmaLoggingReport.decode(data);
    if (page_size < 4096n || (page_size & (page_size - 1n)) !== 0n) refuse('EINVAL');
    const pages = Number(length / page_size);
    const bytes = Math.ceil(pages / 64) * 8;
    const { view, at } = viewOf(hva(bitmap), BigInt(bytes), 'copy_to_user');
    const bits = view.slice(at, bytes);
    for (let page = 0; page < pages; page += 2)
      bits[page >> 3] = (bits[page >> 3] as number) | (1 << (page & 7));
  }
}
