import type { SysError } from '../sys/error.js';
import { vfioError } from './vfio-error.js';

/** What a provider refuses a map with whose memory its devices cannot access, @see DmaMemory */
export const remoteMemory = (call: string, target: string): SysError =>
  vfioError(call, target, 'ENOTSUP', 'this memory is not mapped in this process: its owner has to share it');
