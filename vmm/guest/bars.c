/* Sizes and places BARs (PCI Local Bus 3.0, 6.2.5.1). */
#include "options.h"
#include "pci.h"
#include "print.h"

#define BARS 6
#define PAGE 4096ul

static u32 sizing(bdf function, u32 reg, u32 old) {
  pci_write32(function, reg, 0xffffffff);
  u32 bits = pci_read32(function, reg);
  pci_write32(function, reg, old);
  return bits;
}

static struct bar probe(bdf function, u32 index) {
  u32 reg = PCI_BAR0 + 4 * index, old = pci_read32(function, reg), low = sizing(function, reg, old);
  struct bar bar;
  u64 writable;
  if (low & 1) {
    bar.kind = BAR_IO;
    writable = low & 0xfffc; /* the upper half may be hard-wired to 0 */
    bar.address = old & 0xfffc;
  } else if ((low & 6) == 4 && index < BARS - 1) {
    u32 old_high = pci_read32(function, reg + 4);
    bar.kind = BAR_MEMORY64;
    writable = (u64)sizing(function, reg + 4, old_high) << 32 | (low & ~15u);
    bar.address = (u64)old_high << 32 | (old & ~15u);
  } else {
    bar.kind = BAR_MEMORY32;
    writable = low & ~15u;
    bar.address = old & ~15u;
  }
  bar.prefetchable = bar.kind != BAR_IO && low & 8;
  bar.size = writable & -writable; /* the lowest address bit that can be set */
  if (!writable) bar.kind = BAR_NONE;
  return bar;
}

/* A BAR smaller than a page gets its own page, so that no page contains parts of two BARs. */
static bool take(struct window *window, struct bar *bar) {
  u64 align = bar->kind == BAR_IO || bar->size > PAGE ? bar->size : PAGE;
  u64 address = (window->base + window->used + align - 1) & ~(align - 1);
  if (address + bar->size > window->base + window->size || address < window->base) return false;
  window->used = address + bar->size - window->base;
  bar->address = address;
  return true;
}

static struct window *window_for(const struct bar *bar) {
  if (bar->kind == BAR_IO) return options.io.size ? &options.io : NULL;
  const struct window *wide = &options.mmio64;
  if (bar->kind == BAR_MEMORY64 && wide->size && wide->base + wide->size <= GIB4) return &options.mmio64;
  return options.mmio.size ? &options.mmio : NULL;
}

static void describe(u32 index, const struct bar *bar) {
  const char *kind = bar->kind == BAR_IO ? "I/O" : bar->kind == BAR_MEMORY32 ? "32-bit memory" : "64-bit memory";
  const char *unit = bar->size >= 1 << 20 ? "MiB" : bar->size >= 1 << 10 ? "KiB" : "bytes";
  u64 size = bar->size >= 1 << 20 ? bar->size >> 20 : bar->size >= 1 << 10 ? bar->size >> 10 : bar->size;
  step("BAR%u %s%s %lu %s at 0x%lx\n", index, kind, bar->prefetchable ? " prefetchable" : "", size, unit,
       bar->address);
}

bool pci_place_bars(bdf function, struct bar bars[BARS]) {
  u16 command = pci_read16(function, PCI_COMMAND);
  pci_write16(function, PCI_COMMAND,
              command & (u16) ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER));
  for (u32 index = 0; index < BARS; index++) {
    bars[index] = probe(function, index);
    if (bars[index].kind == BAR_MEMORY64) bars[++index].kind = BAR_NONE;
  }

  /* Largest first: no holes from alignment. */
  bool placed[BARS] = {};
  for (;;) {
    u32 next = BARS;
    for (u32 index = 0; index < BARS; index++) {
      if (bars[index].kind == BAR_NONE || placed[index] || !window_for(&bars[index])) continue;
      if (next == BARS || bars[index].size > bars[next].size) next = index;
    }
    if (next == BARS) break;
    struct bar *bar = &bars[next];
    placed[next] = true;
    if (!take(window_for(bar), bar)) {
      print("no room for BAR%u, 0x%lx bytes\n", next, bar->size);
      return false;
    }
    pci_write32(function, PCI_BAR0 + 4 * next, (u32)bar->address);
    if (bar->kind == BAR_MEMORY64) pci_write32(function, PCI_BAR0 + 4 * next + 4, (u32)(bar->address >> 32));
  }

  for (u32 index = 0; index < BARS; index++)
    if (bars[index].kind != BAR_NONE) describe(index, &bars[index]);
  return true;
}
