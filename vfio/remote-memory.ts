import type { SysError } from '../sys/error.js';
import { vfioError } from './vfio-error.js';

/** The error of providers whose devices cannot access remote memory. @see DmaMemory */
export const remoteMemory = (call: string, target: string): SysError =>
  vfioError(call, target, 'ENOTSUP', 'the memory is not mapped in this process: its owner must share it');
