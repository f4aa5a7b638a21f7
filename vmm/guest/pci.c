/* Configuration space access, the scan of bus 0, capabilities. */
#include "pci.h"
#include "abi.h"
#include "options.h"
#include "print.h"
#include "verdict.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define HEADER_BYTES 64 /* past it, reads may have side effects (virtio's PCI configuration access capability) */
#define MULTI_FUNCTION 0x80

static void select(bdf function, u32 reg) { outl(CONFIG_ADDRESS, 0x80000000u | (u32)function << 8 | (reg & 0xfc)); }

u32 pci_read32(bdf function, u32 reg) {
  select(function, reg);
  return inl(CONFIG_DATA);
}
u16 pci_read16(bdf function, u32 reg) { return (u16)(pci_read32(function, reg) >> (reg & 2) * 8); }
u8 pci_read8(bdf function, u32 reg) { return (u8)(pci_read32(function, reg) >> (reg & 3) * 8); }
void pci_write32(bdf function, u32 reg, u32 value) {
  select(function, reg);
  outl(CONFIG_DATA, value);
}
void pci_write16(bdf function, u32 reg, u16 value) {
  select(function, reg);
  outw((u16)(CONFIG_DATA + (reg & 2)), value);
}

static void compare_ecam(u64 ecam, bdf function, u32 bytes) {
  for (u32 reg = 0; reg < bytes; reg += 4) {
    u32 there = read32(ecam + ((u64)function << 12) + reg), here = pci_read32(function, reg);
    if (there == here) continue;
    print("00:%02x.%x register 0x%02x: 0x%08x by ECAM, 0x%08x by mechanism #1\n", function >> 3, function & 7, reg,
          there, here);
    finish(VERDICT_ECAM, "ECAM and mechanism #1 differ");
  }
}

void pci_scan(struct wanted *wanted, u32 count, u64 ecam) {
  u32 found = 0;
  for (bdf function = 0; function < 256; function++) {
    u32 id = pci_read32(function, PCI_ID);
    bool present = id != 0xffffffff;
    if (ecam) compare_ecam(ecam, function, present ? HEADER_BYTES : 4);
    if (present) {
      found++;
      step("00:%02x.%x %04x:%04x class %06x\n", function >> 3, function & 7, id & 0xffff, id >> 16,
           pci_read32(function, PCI_CLASS) >> 8);
      for (u32 i = 0; i < count; i++)
        if (id == wanted[i].id && wanted[i].found == PCI_NONE) wanted[i].found = function;
    }
    if (!(function & 7) && !(present && pci_read8(function, PCI_HEADER_TYPE) & MULTI_FUNCTION)) function |= 7;
  }
  if (ecam) step("ECAM agrees on %u functions\n", found);
}

u8 pci_capability(bdf function, u8 id, u8 after) {
  if (!(pci_read16(function, PCI_STATUS) & PCI_STATUS_CAPABILITIES)) return 0;
  u8 at = pci_read8(function, after ? after + 1 : PCI_CAPABILITIES);
  for (u32 seen = 0; (at &= 0xfc) && seen < 48; seen++) {
    u16 header = pci_read16(function, at);
    if ((u8)header == id) return at;
    at = (u8)(header >> 8);
  }
  return 0;
}
