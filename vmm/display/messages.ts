/** What main and machine thread say to each other of pictures. Plain data: it crosses threads. */
import type { GfxPlaneInfo } from '../../vfio/uapi.js';
import type { ErrorData } from '../protocol.js';

/** Video memory, for the main thread to map. */
export interface DisplayMemory {
  /** The receiver's to close. */
  readonly fd: number;
  /** Where the plane's region begins in it, and its bytes. */
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
  /** Where the plane is from now on; said once for each region. */
  readonly memory?: DisplayMemory;
  /** A copy of the plane, from its first pixel on, where there is no memory to be mapped. */
  readonly pixels?: Uint8Array;
}

/** Asks what a device shows; answered by a {@link PlaneEvent} of the same id. */
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

/** What the machine's displays showed when it had stopped, in the order of their slots. */
export interface StillsEvent {
  readonly kind: 'stills';
  readonly stills: readonly Still[];
}

export interface Still {
  readonly slot: number;
  readonly name: string;
  readonly answer: ShownPlane | ErrorData;
}
