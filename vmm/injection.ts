/** tsyringe, with the Reflect polyfill that it refuses to load without. */
import 'reflect-metadata';

export { container, type DependencyContainer } from 'tsyringe';
