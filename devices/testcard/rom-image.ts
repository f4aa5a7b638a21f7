import { PCI_DEVICE_ID_TESTCARD, PCI_VENDOR_ID_TEST } from './spec.js';

const PCIR_AT = 0x1c;
const PCIR_BYTES = 0x18;
/** Code of type "other": nothing runs it. */
const CODE_TYPE = 0xff;
const LAST_IMAGE = 0x80;

/**
 * An expansion ROM of this many bytes, a multiple of 512: a header by which Linux finds the image's end, then a pattern, so that
 * each byte's place can be told. PCI Firmware 3.3, section 5.1.
 */
export function createRomImage(bytes: number): Uint8Array {
  const image = Uint8Array.from({ length: bytes }, (_, i) => (i ^ (i >>> 8)) & 0xff);
  const view = new DataView(image.buffer);
  image.fill(0, 0, PCIR_AT + PCIR_BYTES);
  view.setUint16(0, 0xaa55, true);
  view.setUint16(0x18, PCIR_AT, true);
  image.set(new TextEncoder().encode('PCIR'), PCIR_AT);
  view.setUint16(PCIR_AT + 4, PCI_VENDOR_ID_TEST, true);
  view.setUint16(PCIR_AT + 6, PCI_DEVICE_ID_TESTCARD, true);
  view.setUint16(PCIR_AT + 0x0a, PCIR_BYTES, true);
  view.setUint16(PCIR_AT + 0x10, bytes / 512, true);
  image[PCIR_AT + 0x14] = CODE_TYPE;
  image[PCIR_AT + 0x15] = LAST_IMAGE;
  return image;
}
