/** tsyringe, with the Reflect polyfill that it refuses to load without. Used in vmm/ only. */
import 'reflect-metadata';

export {
  container,
  type DependencyContainer,
  inject,
  injectAll,
  injectable,
  instanceCachingFactory,
} from 'tsyringe';
