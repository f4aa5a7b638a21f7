/** Messages about pictures between main and machine thread. Plain data that can be posted. */
import type { GfxPlaneInfo } from '../../vfio/uapi.js';
import type { ErrorData } from '../error-data.js';
import type { ScreenSize } from './screen-size.js';

/** Video memory for the main thread to map. */
export interface DisplayMemory {
  /** The receiver must close it. */
  readonly fd: number;
  /** Offset of the plane's region in it, and its size in bytes. */
  readonly offset: number;
  readonly bytes: number;
}

/** A display of a machine. */
export interface DisplayName {
  /** Its PCI slot. */
  readonly slot: number;
  /** `00:03.0 vgpu-small`; of the second screen of a device, `00:03.0 virtio-gpu, screen 2`. */
  readonly name: string;
  /** Which screen of a device that has several, from 0 on; absent for the first. */
  readonly head?: number;
  /** The largest size that the host can give it; absent if it can give it none. */
  readonly largest?: ScreenSize;
}

/** A cursor above a picture. */
export interface ShownCursor {
  readonly plane: GfxPlaneInfo;
  /** A copy of its pixels, line by line. */
  readonly pixels: Uint8Array;
}

/** What a device shows. */
export interface ShownPlane extends DisplayName {
  readonly plane: GfxPlaneInfo;
  /** What is above it; absent if the guest shows no cursor. */
  readonly cursor?: ShownCursor;
  /** Where the plane is in memory; sent once per region. */
  readonly memory?: DisplayMemory;
  /** A copy of the plane from its first pixel, if its memory cannot be mapped by the main thread. */
  readonly pixels?: Uint8Array;
  /**
   * Trapped accesses to the device so far. The guest shows another frame by one of them, so it has not while this stays the
   * same. Absent if unknown.
   */
  readonly accesses?: number;
}

/** Requests what a device shows; answered by a {@link PlaneEvent} with the same id. */
export interface PlaneCommand {
  readonly kind: 'plane';
  readonly id: number;
  /** The first display if absent. */
  readonly slot: number | undefined;
  /** Which screen of the display; the first if absent. */
  readonly head?: number | undefined;
  /** Copies the plane where the guest cannot show another frame meanwhile. */
  readonly isCopied?: boolean;
}

/** Requests the list of displays; answered by a {@link DisplaysEvent} with the same id. */
export interface DisplaysCommand {
  readonly kind: 'displays';
  readonly id: number;
}

export type ScreenCommand = PlaneCommand | DisplaysCommand;

export interface PlaneEvent {
  readonly kind: 'plane';
  readonly id: number;
  readonly answer: ShownPlane | ErrorData;
}

export interface DisplaysEvent {
  readonly kind: 'displays';
  readonly id: number;
  /** In slot order. */
  readonly displays: readonly DisplayName[];
}

/** The last pictures of the machine's displays when it stopped, in slot order. */
export interface StillsEvent {
  readonly kind: 'stills';
  readonly stills: readonly Still[];
}

export type ScreenEvent = PlaneEvent | DisplaysEvent | StillsEvent;

export interface Still extends DisplayName {
  readonly answer: ShownPlane | ErrorData;
}
