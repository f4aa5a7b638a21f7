/**
 * The head of a message to the page, as JSON; the pixels of all areas follow it, in order. The message begins with the
 * head's length, as a little-endian 32-bit word; spaces pad the head to a multiple of 4 bytes.
 */
export interface FrameHead {
  /** Set in the last message. */
  readonly ended?: string;
  /** All displays, in slot order; areas or a text only if new. */
  readonly displays: readonly {
    readonly slot: number;
    readonly name: string;
    /** Which screen of its device; absent for the first. */
    readonly head?: number;
    /** The most that it can be given, pixels; absent if it cannot be given another size. */
    readonly largest?: { readonly width: number; readonly height: number };
    /** Why there is no picture. */
    readonly text?: string;
    /** Size of the picture, pixels. */
    readonly width?: number;
    readonly height?: number;
    /**
     * How long before the server had the request the guest drew the last of what is new, at most, milliseconds; negative if
     * it drew it afterwards. Absent if unknown.
     */
    readonly drawnBeforeMs?: number;
    /** x, y, width, height; pixels are red, green, blue, 255. */
    readonly areas?: readonly (readonly [number, number, number, number])[];
  }[];
}
