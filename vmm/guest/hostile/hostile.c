/*
 * A guest that does what no driver does: random port, MMIO, configuration and virtqueue accesses to every device on bus 0.
 * Everything follows from the seed, so a run can be repeated.
 *
 * Command line  seed=N ops=N   N decimal; ops=0 halts instead, as a quiet guest to compare with
 * Verdict       0 after that many operations; it ends in no other way unless the machine ends it
 *
 * It spares itself, not the host: what ends or resets the machine (ports 0x60, 0x64, 0xf4, 0xcf9, PM1 control, the reset
 * register), messages that would INIT its own processor, and DMA into the memory below SANDBOX, where it lives. 64 MiB of RAM.
 */
#include "../cpu.h"

#define PORT_COM1 0x3f8
#define PORT_VERDICT 0xf4
#define PORT_HOTPLUG_EJECT 0x628
#define ECAM 0xe0000000u
#define LAPIC_SPURIOUS 0xfee000f0u
#define WINDOW 0xc0000000u
#define WINDOW_64 0x4000000000ul
#define IO_WINDOW 0xc000u
#define RAM_END 0x4000000u
#define SANDBOX 0x1000000u
#define QUEUES 4
#define QUEUE_BYTES 0x10000u
#define QUEUE_SIZE 64u

#define PCI_COMMAND 0x04
#define PCI_BAR0 0x10
#define PCI_CAP_PTR 0x34
#define CAP_MSI 0x05
#define CAP_VNDR 0x09
#define CAP_MSIX 0x11

static u64 state;
static u64 next(void) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545f4914f6cdd1dul;
}
static u32 below(u32 end) { return (u32)((next() >> 32) * end >> 32); }

struct bar {
  u32 size; /* 0: none */
  u32 at;
  bool io, is64;
};
static struct device {
  u8 slot, msix, msix_bar;
  u32 msix_at, vectors;
  struct bar bars[6];
  /* virtio; 0 without */
  u32 common, notify, device;
} devices[32];
static u32 count;
/* The registers of a bochs-display: DISPI and its extension lie close together in a page. */
static u32 display;

static void say(const char *text) {
  for (; *text; text++) outb(PORT_COM1, (u8)*text);
}
static void say_number(u64 value) {
  char digits[21], *at = digits + 20;
  *at = 0;
  do *--at = (char)('0' + value % 10);
  while (value /= 10);
  say(at);
}

static void select(u32 slot, u32 reg) { outl(0xcf8, 0x80000000u | slot << 11 | (reg & 0xfc)); }
static u32 config(u32 slot, u32 reg) {
  select(slot, reg);
  return inl(0xcfc);
}
static void set_config(u32 slot, u32 reg, u32 value) {
  select(slot, reg);
  outl(0xcfc, value);
}

static void size_bars(struct device *device, u32 *memory, u32 *io) {
  for (u32 i = 0; i < 6; i++) {
    struct bar *bar = &device->bars[i];
    u32 reg = PCI_BAR0 + 4 * i;
    set_config(device->slot, reg, 0xffffffff);
    u32 probe = config(device->slot, reg);
    if (probe == 0) continue;
    bar->io = probe & 1;
    bar->is64 = !bar->io && (probe & 6) == 4;
    bar->size = (~(probe & (bar->io ? ~3u : ~15u)) + 1) & (bar->io ? 0xffff : ~0u);
    u32 *from = bar->io ? io : memory;
    *from = (*from + bar->size - 1) & ~(bar->size - 1);
    bar->at = *from;
    *from += bar->size < 0x1000 && !bar->io ? 0x1000 : bar->size;
    if (bar->is64) i++;
  }
}

/* Puts the BARs where they began and switches decoding and DMA on, so that the operations after it reach the device. */
static void home(struct device *device) {
  for (u32 i = 0; i < 6; i++) {
    struct bar *bar = &device->bars[i];
    if (bar->size == 0) continue;
    set_config(device->slot, PCI_BAR0 + 4 * i, bar->at);
    if (bar->is64) set_config(device->slot, PCI_BAR0 + 4 * i + 4, 0);
  }
  set_config(device->slot, PCI_COMMAND, 7);
}

static void scan(void) {
  u32 memory = WINDOW + 0x1000000, io = IO_WINDOW;
  for (u32 slot = 1; slot < 32; slot++) {
    if (config(slot, 0) == 0xffffffff) continue;
    struct device *device = &devices[count++];
    device->slot = (u8)slot;
    size_bars(device, &memory, &io);
    home(device);
    if (config(slot, 0) == 0x11111234) display = device->bars[2].at;
    for (u32 cap = config(slot, PCI_CAP_PTR) & 0xfc, n = 0; cap && n < 48; n++) {
      u32 head = config(slot, cap), id = head & 0xff;
      u32 bar = config(slot, cap + 4) & 7, offset = config(slot, cap + 8);
      if (id == CAP_MSIX) {
        u32 table = config(slot, cap + 4);
        device->msix = (u8)cap;
        device->vectors = (head >> 16 & 0x7ff) + 1;
        device->msix_at = device->bars[table & 7].at + (table & ~7u);
      } else if (id == CAP_VNDR && bar < 6) {
        u32 at = device->bars[bar].at + offset, type = head >> 24;
        if (type == 1) device->common = at;
        else if (type == 2) device->notify = at;
        else if (type == 4) device->device = at;
      }
      cap = head >> 8 & 0xfc;
    }
  }
}

static struct device *any(void) { return &devices[below(count)]; }
static struct bar *any_bar(bool io) {
  for (;;) {
    struct device *device = any();
    for (u32 i = below(6); i < 6; i++)
      if (device->bars[i].size && device->bars[i].io == io) return &device->bars[i];
  }
}

static u64 value(void) {
  switch (below(6)) {
    case 0: return 0;
    case 1: return ~0ul;
    case 2: return 1ul << below(64);
    case 3: return below(256);
    default: return next();
  }
}

/* Memory that the device may write, memory that is not there, and addresses that are no memory. */
static u64 dma_address(void) {
  switch (below(8)) {
    case 0: return RAM_END - below(64);
    case 1: return ~0ul - below(0x2000);
    case 2: return next() | 1ul << 63;
    case 3: return any_bar(false)->at;
    case 4: return 0xfee00000ul + below(0x1000);
    default: return SANDBOX + (QUEUES * QUEUE_BYTES) + below(RAM_END - SANDBOX - QUEUES * QUEUE_BYTES);
  }
}
static u32 dma_length(void) {
  static const u32 lengths[] = {0, 1, 11, 12, 13, 64, 1514, 4096, 65535, 65562, 0x1000000, 0x7fffffff, 0xffffffff};
  return lengths[below(sizeof lengths / sizeof *lengths)];
}

static bool spares(u32 port, u32 width) {
  for (u32 at = port; at < port + width; at++)
    if (at == 0x60 || at == 0x64 || at == PORT_VERDICT || at == 0xcf9 || at == 0x605 || at == 0x60c ||
        (at & ~3u) == PORT_HOTPLUG_EJECT)
      return false;
  return true;
}

static void port_operation(void) {
  static const u16 known[] = {0x20, 0x43,  0x61,  0x70,  0x80,  0x92,  0xa0,  0x2f8, 0x3f8, 0x3fc,
                              0x4d0, 0x600, 0x604, 0x608, 0x610, 0x618, 0x620, 0x624, 0xcf8, 0xcfc};
  u32 port, width = 1u << below(3);
  switch (below(4)) {
    case 0: port = below(0x10000); break;
    case 1: port = known[below(sizeof known / sizeof *known)] + below(12) - 4; break;
    default: {
      struct bar *bar = any_bar(true);
      port = bar->at + below(bar->size + 8) - 4;
    }
  }
  port &= 0xffff;
  bool isWrite = next() >> 63;
  if (isWrite && !spares(port, width)) return;
  u32 data = (u32)value();
  if (isWrite) {
    if (width == 1) outb((u16)port, (u8)data);
    else if (width == 2) outw((u16)port, (u16)data);
    else outl((u16)port, data);
  } else if (width == 1) inb((u16)port);
  else inl((u16)port);
}

static void mmio_operation(void) {
  u32 at;
  switch (below(8)) {
    case 0: at = ECAM + below(0x200000); break;
    case 1: at = WINDOW + below(0x20000000); break;
    case 2: at = ECAM + (any()->slot << 15) + below(0x120) - 4; break;
    case 3: at = display + 0x500 + below(0x110) - 4; break;
    default: {
      struct bar *bar = any_bar(false);
      u32 edge = below(4) == 0 ? below(bar->size / 0x1000 + 1) * 0x1000 + below(16) : below(bar->size + 16);
      at = bar->at + edge - 8;
    }
  }
  if (at < WINDOW || at >= 0xfec00000) return;
  /* Bits 8 to 10 of a message select INIT and SMI. */
  u64 data = value() & ~0x0000070000000700ul;
  u32 width = below(4);
  if (next() >> 63) {
    if (width == 0) write8(at, (u8)data);
    else if (width == 1) write16(at, (u16)data);
    else if (width == 2) write32(at, (u32)data);
    else *(volatile u64 *)(u64)at = data;
  } else if (width == 0) read8(at);
  else if (width == 1) read16(at);
  else if (width == 2) read32(at);
  else (void)*(volatile u64 *)(u64)at;
}

static void config_operation(void) {
  struct device *device = any();
  u32 slot = below(16) == 0 ? below(32) : device->slot, function = below(16) == 0 ? below(8) : 0;
  u32 reg, data = (u32)value(), width = 1u << below(3);
  switch (below(5)) {
    case 0: reg = PCI_COMMAND; break;
    case 1:
      reg = PCI_BAR0 + 4 * below(6);
      if (below(2)) data = below(2) ? WINDOW + (data & 0x1ffffff0) : IO_WINDOW + (data & 0x1ffc);
      break;
    case 2: reg = 0x30; break;
    case 3: reg = device->msix ? device->msix : 0x40; break;
    default: reg = below(0x110);
  }
  reg += below(4);
  bool isWrite = below(3) != 0;
  if (reg < 0x100 && below(2)) {
    outl(0xcf8, 0x80000000u | slot << 11 | function << 8 | (reg & 0xfc));
    u16 port = (u16)(0xcfc + (reg & 3));
    if (!isWrite) inl(port);
    else if (width == 1) outb(port, (u8)data);
    else if (width == 2) outw(port, (u16)data);
    else outl(port, data);
    return;
  }
  u64 at = ECAM + (slot << 15 | function << 12) + reg;
  if (!isWrite) read32(at);
  else if (width == 1) write8(at, (u8)data);
  else if (width == 2) write16(at, (u16)data);
  else write32(at, data);
}

static void msix_operation(void) {
  struct device *device = any();
  if (device->msix == 0) return;
  if (below(4) == 0) {
    set_config(device->slot, device->msix, below(4) << 30);
    return;
  }
  u64 entry = device->msix_at + 16 * below(device->vectors);
  switch (below(4)) {
    case 0: write32(entry, below(8) ? 0xfee00000u | below(0x100000) : (u32)next()); break;
    case 1: write32(entry + 4, below(4) ? 0 : (u32)next()); break;
    case 2: write32(entry + 8, (u32)next() & ~0x700u); break;
    default: write32(entry + 12, below(2));
  }
}

/* Of struct virtio_pci_common_cfg. */
static void set_up_queues(struct device *device) {
  u64 at = device->common;
  write8(at + 20, 0);
  write8(at + 20, 3);
  write32(at + 8, 1);
  write32(at + 12, 1); /* VIRTIO_F_VERSION_1 */
  write32(at + 8, 0);
  write32(at + 12, below(4) ? 0 : (u32)value());
  write8(at + 20, 11);
  for (u16 i = 0; i < 2; i++) {
    u64 queue = SANDBOX + i * QUEUE_BYTES;
    write16(at + 22, i);
    write16(at + 24, QUEUE_SIZE);
    bool isWild = below(8) == 0;
    for (u32 part = 0; part < 3; part++) {
      u64 address = isWild ? dma_address() : queue + part * 0x1000;
      write32(at + 32 + 8 * part, (u32)address);
      write32(at + 36 + 8 * part, (u32)(address >> 32));
    }
    write16(at + 28, 1);
  }
  write8(at + 20, 15);
}

static void fill_ring(struct device *device) {
  u32 which = below(8) ? below(2) : below(QUEUES);
  u64 queue = SANDBOX + which * QUEUE_BYTES;
  volatile u16 *avail = (volatile u16 *)(queue + 0x1000);
  u32 head = below(QUEUE_SIZE);
  volatile u64 *descriptor = (volatile u64 *)(queue + 16 * head);
  avail[2 + avail[1] % QUEUE_SIZE] = (u16)head;
  u64 random = next();
  if (random & 7) { /* what a driver would write: a buffer to receive into, a frame to send */
    descriptor[0] = SANDBOX + QUEUES * QUEUE_BYTES + (random >> 16 & 0xffffff);
    descriptor[1] = which & 1 ? 12 + (random >> 40 & 0x7ff) : 2048 | 2ul << 32;
    avail[1]++;
  } else {
    for (u32 n = 1 + below(3); n; n--) {
      u64 flags = below(8) ? next() & 3 : next() & 0xffff;
      u64 to = below(4) ? below(QUEUE_SIZE) : next() & 0xffff;
      descriptor[0] = dma_address();
      descriptor[1] = dma_length() | flags << 32 | to << 48;
      descriptor = (volatile u64 *)(queue + 16 * (to & (QUEUE_SIZE - 1)));
    }
    if (below(4) == 0) avail[2 + avail[1] % QUEUE_SIZE] = (u16)next();
    avail[1] = (u16)(below(4) ? avail[1] + below(4) : next());
  }
  u32 bell = random >> 56 & 7;
  write16(device->notify + 4 * (bell ? which & 1 : below(4)), (u16)(bell ? which & 1 : next()));
}

static void virtio_operation(void) {
  struct device *device = any();
  if (device->common == 0) return;
  switch (below(32)) {
    case 0:
    case 1:
      home(device);
      set_up_queues(device);
      break;
    case 2: write32(device->common + 4 * below(16), (u32)value()); break;
    case 3: write16(device->common + 2 * below(32), (u16)value()); break;
    case 4: write8(device->common + 20, (u8)value()); break;
    case 5: read32(device->common + below(64)); break;
    default: fill_ring(device);
  }
}

static _Noreturn void hostile(const char *words) {
  u64 seed = 1, ops = 0;
  for (const char *at = words; *at; at++) {
    u64 *to = NULL;
    if (at[0] == 's' && at[1] == 'e' && at[2] == 'e' && at[3] == 'd' && at[4] == '=') to = &seed, at += 5;
    else if (at[0] == 'o' && at[1] == 'p' && at[2] == 's' && at[3] == '=') to = &ops, at += 4;
    if (to == NULL) continue;
    for (*to = 0; *at >= '0' && *at <= '9'; at++) *to = *to * 10 + (u64)(*at - '0');
    if (*at == 0) break;
  }
  state = seed * 0x9e3779b97f4a7c15ul | 1;
  say("hostile guest, seed ");
  say_number(seed);
  say(", operations ");
  say_number(ops);
  say("\n");
  scan();
  if (ops == 0 || count == 0) halt_for_ever();
  write32(LAPIC_SPURIOUS, 0x1ff);
  for (u64 done = 0; done < ops; done++) {
    switch (below(10)) {
      case 0:
      case 1: port_operation(); break;
      case 2:
      case 3:
      case 4: mmio_operation(); break;
      case 5: config_operation(); break;
      case 6: msix_operation(); break;
      default: virtio_operation();
    }
    if (below(64) == 0) home(any());
    /* Late, as the device is gone then. */
    if (done == ops - ops / 8) outl(PORT_HOTPLUG_EJECT, 1u << any()->slot);
  }
  outb(PORT_VERDICT, 0);
  halt_for_ever();
}

__attribute__((naked, section(".text.start"))) void _start(void) {
  asm volatile("cld\n\tmovl $0x1000000, %%esp\n\txorl %%ebp, %%ebp\n\tcall *%0" ::"a"(hostile));
}
