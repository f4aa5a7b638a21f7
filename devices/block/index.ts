export { type DiskImage, IMAGE_FORMATS, type ImageFormat } from './disk-image.js';
export { type BlockImage, SECTOR_BYTES } from './image.js';
export { openImage } from './open-image.js';
