export { createMttyDriver } from './driver.js';
