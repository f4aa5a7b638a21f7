import { isErrno } from '../../sys/error.js';
import type { TimelineEvent } from '../../vfio/timeline.js';
import type { MemoryRegionState } from '../assign/memory-map.js';
import type { DeviceState, TimelineRecord } from '../inspection.js';
import type { Outcome } from '../outcome.js';
import type { Counters, RunReport } from '../protocol.js';
import { type ControlSource, controlsOf } from './controls.js';

/** A machine that the page can show and control: a VirtualMachine. What it lacks is not shown. */
export interface StatusSource extends ControlSource {
  /** Resolves to the run's report. */
  readonly finished: Promise<RunReport>;
  /** What it has counted so far. */
  counters(): Promise<Counters>;
  /** The assigned devices as they are now. */
  inspectDevices?(): Promise<readonly DeviceState[]>;
  /** The guest's memory. */
  inspectMemory?(): Promise<readonly MemoryRegionState[]>;
  /** VFIO's operations since the machine started; events that were reported before are the same. */
  timeline?(): Promise<TimelineRecord>;
}

/** A machine as the page shows it, beside its pictures: what the library's calls return at one moment. */
export interface MachineStatus {
  /** Milliseconds of the monotonic clock when it was read. */
  readonly at: number;
  /** `running` where the machine does not say. */
  readonly state: 'starting' | 'running' | 'paused' | 'ended';
  /** How the run ended. */
  readonly outcome?: Outcome;
  /** Why the machine failed, or a call. */
  readonly failure?: string;
  readonly counters?: Counters;
  readonly devices?: readonly DeviceState[];
  readonly memory?: readonly MemoryRegionState[];
  /** Where the timeline ends. */
  readonly timeline: TimelineMark;
  /** The controls that the machine has. */
  readonly controls: readonly string[];
}

/** A place in a timeline: a number of events, in one of its versions. What a version has does not change. */
export interface TimelineMark {
  readonly version: number;
  readonly end: number;
}

/** Events of a timeline before {@link TimelineMark.end}. */
export interface TimelineSlice extends TimelineMark {
  readonly events: readonly TimelineEvent[];
  /** How many are missing between them, or before. */
  readonly dropped: number;
}

/** The machine is asked this often at most, however many pages there are. */
export const READ_EVERY_MS = 250;
/** And this often for its memory map, which takes milliseconds for each GiB, and seldom changes. */
export const READ_MEMORY_EVERY_MS = 5000;
/** Events of a timeline in one answer to a page. */
export const MOST_SLICE = 1000;

/** The machine restarts, or has just ended; or many calls are pending. */
const PASSING = ['ESRCH', 'ECONNRESET', 'EBUSY'] as const;

/**
 * What a machine's calls return, read for all pages at once. After the end, it is what was last, with the counters of the
 * report. Main thread only.
 */
export class StatusReader {
  readonly #source: StatusSource;
  readonly #now: () => number;
  #last: MachineStatus;
  #timeline: TimelineRecord = { events: [], dropped: 0 };
  #version = 0;
  #memoryReadAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  /** @param now milliseconds of any monotonic clock; tests pass their own */
  constructor(source: StatusSource, now: () => number = () => performance.now()) {
    this.#source = source;
    this.#now = now;
    const timeline = { version: 0, end: 0 };
    this.#last = { at: Number.NEGATIVE_INFINITY, state: 'starting', timeline, controls: [] };
    const end = (last: Partial<MachineStatus>) => {
      this.#last = { ...this.#last, ...last, at: this.#now(), state: 'ended', controls: [] };
    };
    source.finished.then(
      ({ outcome, exits, accesses, devices }) => end({ outcome, counters: { exits, accesses, devices } }),
      (error: Error) => end({ failure: error.message }),
    );
  }

  /** The state now, or up to 250 ms ago. */
  async read(): Promise<MachineStatus> {
    if (this.#last.state !== 'ended' && this.#now() - this.#last.at >= READ_EVERY_MS) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = undefined;
      });
      await this.#reading;
    }
    return this.#last;
  }

  /** Events of the timeline after a place, at most 1000: from the start if that place is in another version. */
  timelineAfter({ version, end }: TimelineMark): TimelineSlice {
    const { events, dropped } = this.#timeline;
    const from = version === this.#version ? end : 0;
    const slice = events.slice(from, from + MOST_SLICE);
    return {
      version: this.#version,
      end: Math.min(from, events.length) + slice.length,
      events: slice,
      dropped,
    };
  }

  async #read(): Promise<void> {
    const source = this.#source;
    try {
      const [counters, devices, memory, timeline] = await Promise.all([
        source.counters(),
        source.inspectDevices?.(),
        this.#readMemory(),
        source.timeline?.(),
      ]);
      if (this.#last.state === 'ended') return;
      if (timeline !== undefined) this.#follow(timeline);
      this.#last = {
        at: this.#now(),
        state: source.state ?? 'running',
        counters,
        ...(devices && { devices }),
        ...(memory && { memory }),
        timeline: { version: this.#version, end: this.#timeline.events.length },
        controls: Object.keys(controlsOf(source)),
      };
    } catch (error) {
      if (!PASSING.some((code) => isErrno(error, code)))
        this.#last = { ...this.#last, failure: (error as Error).message };
    }
  }

  async #readMemory(): Promise<MachineStatus['memory']> {
    if (this.#now() - this.#memoryReadAt < READ_MEMORY_EVERY_MS) return this.#last.memory;
    const memory = await this.#source.inspectMemory?.();
    this.#memoryReadAt = this.#now();
    return memory;
  }

  /** A machine that restarts begins another timeline, and one that is too long is cut. */
  #follow(next: TimelineRecord): void {
    const { events, dropped } = this.#timeline;
    const known = events.at(-1);
    const same = next.events[events.length - 1];
    const isLonger = next.dropped === dropped && known?.at === same?.at && known?.what === same?.what;
    if (!isLonger) this.#version++;
    this.#timeline = next;
  }
}
