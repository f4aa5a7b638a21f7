/** All requests of ioctl(2) that this provider makes: what a filter of system calls has to let through. */
import type { Request } from '../../sys/ioctl.js';
import * as structs from './structs.js';
import * as feature from './structs-feature.js';
import * as iommufd from './structs-iommufd.js';
import * as type1 from './structs-type1.js';

const isRequest = (value: unknown): value is Request =>
  typeof value === 'object' && value !== null && 'number' in value && 'hints' in value;

export const HOST_REQUESTS: readonly Request[] = [structs, feature, iommufd, type1]
  .flatMap((module): unknown[] => Object.values(module))
  .filter(isRequest);
