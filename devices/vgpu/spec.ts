/** The bochs-display card, as QEMU and Bochs implement it and Linux's bochs-drm drives it. */

export const PCI_VENDOR_ID_BOCHS = 0x1234;
export const PCI_DEVICE_ID_BOCHS_VBE = 0x1111;
/** Revision 2 added an extension for the byte order to the registers. */
export const REVISION = 2;
export const PCI_CLASS_DISPLAY_OTHER = 0x0380;
export const PCI_VENDOR_ID_REDHAT_QUMRANET = 0x1af4;
export const PCI_SUBDEVICE_ID_QEMU = 0x1100;

export const VRAM_BAR = 0;
export const REGISTER_BAR = 2;
export const REGISTER_BAR_BYTES = 4096;

// Parts of the registers' BAR.
export const EDID_AT = 0x000;
export const EDID_BYTES = 0x400;
/** The 16-bit DISPI registers. */
export const DISPI_AT = 0x500;
/** The extension: its size, then the byte order of the pixels. */
export const QEXT_AT = 0x600;
export const QEXT_BYTES = 8;
export const QEXT_ENDIAN = 4;
export const QEXT_LITTLE_ENDIAN = 0x1e1e_1e1e;
export const QEXT_BIG_ENDIAN = 0xbebe_bebe;

// Indexes of DISPI registers, as in Linux's bochs.h.
export const VBE_DISPI_INDEX_ID = 0x0;
export const VBE_DISPI_INDEX_XRES = 0x1;
export const VBE_DISPI_INDEX_YRES = 0x2;
export const VBE_DISPI_INDEX_BPP = 0x3;
export const VBE_DISPI_INDEX_ENABLE = 0x4;
export const VBE_DISPI_INDEX_BANK = 0x5;
export const VBE_DISPI_INDEX_VIRT_WIDTH = 0x6;
export const VBE_DISPI_INDEX_VIRT_HEIGHT = 0x7;
export const VBE_DISPI_INDEX_X_OFFSET = 0x8;
export const VBE_DISPI_INDEX_Y_OFFSET = 0x9;
export const VBE_DISPI_INDEX_VIDEO_MEMORY_64K = 0xa;
export const DISPI_REGISTERS = 0xb;

export const VBE_DISPI_ID5 = 0xb0c5;
export const VBE_DISPI_ENABLED = 0x01;
export const VBE_DISPI_GETCAPS = 0x02;
