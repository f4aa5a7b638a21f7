/** A card that stock Linux drives with 8250_pci: the WCH CH353 of the kernel's sample mtty.c. */
export const PCI_VENDOR_ID_WCH = 0x4348;
export const PCI_DEVICE_ID_WCH_CH353_2S = 0x3253;
export const MTTY_REVISION = 0x10;
/** Programming interface of a serial controller: 16550 compatible. */
export const SERIAL_16550 = 0x02;
export const PCI_CLASS_COMMUNICATION_SERIAL = 0x0700;
/** Total number of ports of all cards (MAX_MTTYS). */
export const MAX_PORTS = 24;
