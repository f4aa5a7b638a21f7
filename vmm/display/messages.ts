/** Messages about pictures between main and machine thread. Plain data that can be posted. */
import type { GfxPlaneInfo } from '../../vfio/uapi.js';
import type { ErrorData } from '../error-data.js';

/** Video memory for the main thread to map. */
export interface DisplayMemory {
  /** The receiver must close it. */
  readonly fd: number;
  /** Offset of the plane's region in it, and its size in bytes. */
  readonly offset: number;
  readonly bytes: number;
}

/** What a device shows. */
export interface ShownPlane {
  /** Its PCI slot. */
  readonly slot: number;
  /** `00:03.0 vgpu-small` */
  readonly name: string;
  readonly plane: GfxPlaneInfo;
  /** Where the plane is in memory; sent once per region. */
  readonly memory?: DisplayMemory;
  /** A copy of the plane from its first pixel, if its memory cannot be mapped by the main thread. */
  readonly pixels?: Uint8Array;
}

/** Requests what a device shows; answered by a {@link PlaneEvent} with the same id. */
export interface PlaneCommand {
  readonly kind: 'plane';
  readonly id: number;
  /** The first display if absent. */
  readonly slot: number | undefined;
}

export interface PlaneEvent {
  readonly kind: 'plane';
  readonly id: number;
  readonly answer: ShownPlane | ErrorData;
}

/** The last pictures of the machine's displays when it stopped, in slot order. */
export interface StillsEvent {
  readonly kind: 'stills';
  readonly stills: readonly Still[];
}

export interface Still {
  readonly slot: number;
  readonly name: string;
  readonly answer: ShownPlane | ErrorData;
}
