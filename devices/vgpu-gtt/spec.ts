/** The registers of the card. There is no hardware like it: it is as small as a card with a translation table can be. */

export const PCI_VENDOR_ID_TSVISOR = 0x1af4;
/** Of the range that QEMU leaves to experiments. */
export const PCI_DEVICE_ID_VGPU_GTT = 0x10f7;

/** Registers of 32 bits. */
export const REGISTER_BAR = 0;
export const REGISTER_BAR_BYTES = 4096;
/** Graphics memory as the table maps it, read-only: through it the host reads the picture. */
export const APERTURE_BAR = 2;

/** Most entries of the table; the aperture has a page for each. */
export const MOST_ENTRIES = 8192;
export const ENTRY_BYTES = 8;
/** Bit of an entry: there is a page. Bits 12 to 51 are its guest physical address. */
export const ENTRY_VALID = 1n;
export const ENTRY_ADDRESS = 0x000f_ffff_ffff_f000n;

/** Reads as {@link ID}. */
export const REG_ID = 0x00;
export const ID = 0x3154_5447; // "GTT1"
/** STATUS_ bits; read-only. */
export const REG_STATUS = 0x04;
/** CONTROL_ bits. */
export const REG_CONTROL = 0x08;
/** Guest physical address of the table, whole pages. Takes effect when {@link CONTROL_GTT} becomes 1. */
export const REG_GTT_BASE_LO = 0x10;
export const REG_GTT_BASE_HI = 0x14;
/** Number of its entries, 1 to {@link MOST_ENTRIES}; likewise. */
export const REG_GTT_ENTRIES = 0x18;
/** The picture to show next: its first byte in graphics memory. */
export const REG_BASE = 0x20;
/** Bytes from a line to the next. */
export const REG_STRIDE = 0x24;
/** Width in bits 0 to 15, height in bits 16 to 31, pixels. */
export const REG_SIZE = 0x28;
/** DRM_FORMAT_XRGB8888 or DRM_FORMAT_RGB565. */
export const REG_FORMAT = 0x2c;
/** A write shows that picture, all of it at once, counts here, and sends the message. */
export const REG_FLIP = 0x30;
/** {@link REG_BASE} of the picture that is shown; read-only. */
export const REG_SHOWN = 0x34;
/** Entries of the table that are valid and not RAM; read-only. */
export const REG_BAD_ENTRIES = 0x40;
/** Entries that the card has taken over from writes to the table since the reset; read-only. */
export const REG_UPDATES = 0x44;

/** The table is in use, and followed. */
export const STATUS_READY = 1 << 0;
/** No VM whose memory the card can use: it is served to another process, or the association ended. */
export const STATUS_NO_KVM = 1 << 1;
/** The table is not all RAM, has no entries or too many, or could not be tracked. */
export const STATUS_BAD_TABLE = 1 << 2;
/** The picture does not lie in graphics memory, or its format is none; nothing is shown then. */
export const STATUS_BAD_PICTURE = 1 << 3;

export const CONTROL_GTT = 1 << 0;
export const CONTROL_DISPLAY = 1 << 1;
