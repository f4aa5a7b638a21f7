export { type DiskImage, IMAGE_FORMATS, type ImageFormat } from './disk-image.js';
export { BlockingIo, type FileIo, finish, RingIo } from './file-io.js';
export { type BlockImage, type Done, SECTOR_BYTES } from './image.js';
export { openImage } from './open-image.js';
