export {
  type HostileDriver,
  type HostileInstance,
  hostileByOption,
  hostileDriver,
} from './hostile-driver.js';
export { MUTATION_ACTIONS, type Mutation, type MutationAction, mutationText } from './mutation-log.js';
export {
  type HostileOptions,
  type HostileRegion,
  MUTATION_KINDS,
  type MutationKind,
} from './options.js';
