import type { MutationLogBuffer } from './mutation-log.js';
import type { FullHostileOptions } from './options.js';

/** Data that starts the interrupt task. */
export interface InterruptTaskData {
  readonly options: FullHostileOptions;
  readonly log: MutationLogBuffer;
}

/** Commands to the interrupt task. The descriptors stay open until a later command for their vector has returned. */
export type InterruptCommand =
  /** What the device signals by `from` is for `to`; a `from` of -1 takes the vector away. */
  | {
      readonly kind: 'set';
      readonly index: number;
      readonly vectors: readonly { readonly vector: number; readonly from: number; readonly to: number }[];
    }
  /** Takes all vectors of an index away. */
  | { readonly kind: 'clear'; readonly index: number; readonly vectors: readonly [] };
