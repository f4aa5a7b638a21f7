#ifndef GUEST_PCI_H
#define GUEST_PCI_H
#include "cpu.h"
/* Configuration space of bus 0 by mechanism #1 (0xCF8/0xCFC). */

#define PCI_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_CLASS 0x08
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d

#define PCI_COMMAND_IO 0x001
#define PCI_COMMAND_MEMORY 0x002
#define PCI_COMMAND_MASTER 0x004
#define PCI_COMMAND_INTX_DISABLE 0x400
#define PCI_STATUS_CAPABILITIES 0x10

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

typedef u16 bdf; /* bus 15:8, device 7:3, function 2:0 */

u32 pci_read32(bdf function, u32 reg);
u16 pci_read16(bdf function, u32 reg);
u8 pci_read8(bdf function, u32 reg);
void pci_write32(bdf function, u32 reg, u32 value);
void pci_write16(bdf function, u32 reg, u16 value);

/* A kind of function, by its ID dword, and the first one found; PCI_NONE until then. */
struct wanted {
  u32 id;
  bdf found;
};
/* Prints every function of bus 0 and looks for those given. ecam 0 skips the comparison. */
void pci_scan(struct wanted *wanted, u32 count, u64 ecam);
#define PCI_NONE 0xffff

/* The next capability with this ID after the one at `after` (0 starts at the beginning); 0 if there is none. */
u8 pci_capability(bdf function, u8 id, u8 after);

/* BARs: their types, and their addresses after placement. */
struct bar {
  enum { BAR_NONE, BAR_IO, BAR_MEMORY32, BAR_MEMORY64 } kind;
  bool prefetchable;
  u64 size, address;
};
/* Sizes all six with decoding off and moves them into the given windows; decoding stays off. False if one does not fit.
 */
bool pci_place_bars(bdf function, struct bar bars[6]);

#endif
