/** tsyringe, with the Reflect polyfill that it refuses to load without. */
import 'reflect-metadata/lite';

export { container, type DependencyContainer } from 'tsyringe';
