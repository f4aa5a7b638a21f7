import type { MemoryView } from '../../sys/mapping.js';

/** All of a guest's RAM, as a move sees it. */
export type MovedMemory = Pick<MemoryView, 'bytes' | 'slice'>;
