#include "virtio.h"
#include "abi.h"
#include "apic.h"
#include "clock.h"
#include "options.h"
#include "print.h"
#include "trap.h"
#include "verdict.h"

#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR 3
#define CAP_DEVICE 4

/* Offsets in the common configuration structure, 4.1.4.3. */
#define DEVICE_FEATURE_SELECT 0
#define DEVICE_FEATURE 4
#define DRIVER_FEATURE_SELECT 8
#define DRIVER_FEATURE 12
#define CONFIG_MSIX_VECTOR 16
#define NUM_QUEUES 18
#define DEVICE_STATUS 20
#define QUEUE_SELECT 22
#define QUEUE_SIZE 24
#define QUEUE_MSIX_VECTOR 26
#define QUEUE_ENABLE 28
#define QUEUE_NOTIFY_OFF 30
#define QUEUE_DESC 32
#define QUEUE_DRIVER 40
#define QUEUE_DEVICE 48
#define COMMON_BYTES 56

#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8
#define FAILED 128

#define MSIX_CONTROL 2
#define MSIX_TABLE 4
#define MSIX_ENABLE 0x8000
#define MSIX_MASK_ALL 0x4000
#define MSI_ADDRESS 0xfee00000

static u32 intx_pin;
static bool has_intx_pin;

static _Noreturn void fail(const char *why) { finish(VERDICT_VIRTIO, why); }

/* Where a structure is mapped; 0 if its BAR is I/O, too small or beyond the mapped 4 GiB. */
static u64 locate(const struct virtio *virtio, u32 index, u32 offset, u64 length) {
  if (index > 5) return 0;
  const struct bar *bar = &virtio->bars[index];
  if (bar->kind != BAR_MEMORY32 && bar->kind != BAR_MEMORY64) return 0;
  if (!bar->address || bar->address > GIB4 || bar->address + bar->size > GIB4) return 0;
  return offset + length > bar->size ? 0 : bar->address + offset;
}

static void find_structures(struct virtio *virtio) {
  u64 *const places[] = {NULL, &virtio->common, &virtio->notify, &virtio->isr, &virtio->device};
  const u64 least[] = {0, COMMON_BYTES, 2, 1, 6};
  for (u8 cap = 0; (cap = pci_capability(virtio->function, PCI_CAP_VENDOR, cap));) {
    u32 type = pci_read8(virtio->function, cap + 3u);
    /* Of several of one type, the first usable one counts: the device lists them in order of preference. */
    if (type < CAP_COMMON || type > CAP_DEVICE || *places[type]) continue;
    u32 bar = pci_read8(virtio->function, cap + 4u), offset = pci_read32(virtio->function, cap + 8u);
    u32 length = pci_read32(virtio->function, cap + 12u);
    if (length < least[type]) continue;
    *places[type] = locate(virtio, bar, offset, length);
    if (type == CAP_NOTIFY) virtio->notify_multiplier = pci_read32(virtio->function, cap + 16u);
  }
}

void virtio_find(struct virtio *virtio, bdf function) {
  virtio->function = function;
  if (!pci_place_bars(function, virtio->bars)) fail("BARs do not fit the windows");
  bool memory = false, io = false;
  for (u32 index = 0; index < 6; index++) {
    const struct bar *bar = &virtio->bars[index];
    if (bar->kind == BAR_NONE || !bar->address) continue;
    if (bar->kind == BAR_IO) io = true;
    else memory = true;
  }
  u16 command = pci_read16(function, PCI_COMMAND) & (u16)~PCI_COMMAND_INTX_DISABLE;
  command |= PCI_COMMAND_MASTER | (memory ? PCI_COMMAND_MEMORY : 0) | (io ? PCI_COMMAND_IO : 0);
  pci_write16(function, PCI_COMMAND, command);
  find_structures(virtio);
  if (!virtio->common || !virtio->notify || !virtio->isr)
    fail("no reachable common, notify and ISR structures: is mmio= needed?");
  step("common at 0x%lx, notify at 0x%lx times %u, ISR at 0x%lx, device at 0x%lx\n", virtio->common, virtio->notify,
       virtio->notify_multiplier, virtio->isr, virtio->device);
}

static void add_status(struct virtio *virtio, u8 bit) {
  write8(virtio->common + DEVICE_STATUS, read8(virtio->common + DEVICE_STATUS) | bit);
}

u64 virtio_negotiate(struct virtio *virtio, u64 wanted) {
  u64 common = virtio->common, deadline = rdtsc() + cycles(1000000);
  write8(common + DEVICE_STATUS, 0);
  while (read8(common + DEVICE_STATUS))
    if (rdtsc() > deadline) fail("device does not leave reset");
  add_status(virtio, ACKNOWLEDGE);
  add_status(virtio, DRIVER);
  write32(common + DEVICE_FEATURE_SELECT, 0);
  u64 offered = read32(common + DEVICE_FEATURE);
  write32(common + DEVICE_FEATURE_SELECT, 1);
  offered |= (u64)read32(common + DEVICE_FEATURE) << 32;
  u64 agreed = wanted & offered;
  step("features offered 0x%lx, agreed 0x%lx\n", offered, agreed);
  if (!(agreed & 1ul << VIRTIO_F_VERSION_1)) {
    add_status(virtio, FAILED);
    fail("device does not offer VIRTIO_F_VERSION_1");
  }
  write32(common + DRIVER_FEATURE_SELECT, 0);
  write32(common + DRIVER_FEATURE, (u32)agreed);
  write32(common + DRIVER_FEATURE_SELECT, 1);
  write32(common + DRIVER_FEATURE, (u32)(agreed >> 32));
  add_status(virtio, FEATURES_OK);
  if (!(read8(common + DEVICE_STATUS) & FEATURES_OK)) fail("device refuses the features");
  return agreed;
}

static void use_msix(struct virtio *virtio) {
  u8 cap = pci_capability(virtio->function, PCI_CAP_MSIX, 0);
  if (!cap) fail("no MSI-X capability");
  u16 control = pci_read16(virtio->function, cap + MSIX_CONTROL);
  u32 entries = (control & 0x7ff) + 1u, where = pci_read32(virtio->function, cap + MSIX_TABLE);
  u64 table = locate(virtio, where & 7, where & ~7u, 16ul * entries);
  if (!table) fail("MSI-X table out of reach");
  if (entries < 3) fail("fewer than three MSI-X vectors");
  control |= MSIX_ENABLE;
  pci_write16(virtio->function, cap + MSIX_CONTROL, control | MSIX_MASK_ALL);
  for (u32 entry = 0; entry < 3; entry++) {
    write32(table + 16 * entry, MSI_ADDRESS | apic_id() << 12);
    write32(table + 16 * entry + 4, 0);
    write32(table + 16 * entry + 8, VECTOR_CONFIG + entry); /* CONFIG, RX, TX are consecutive */
    write32(table + 16 * entry + 12, 0);
  }
  pci_write16(virtio->function, cap + MSIX_CONTROL, control & (u16)~MSIX_MASK_ALL);
  write16(virtio->common + CONFIG_MSIX_VECTOR, MSIX_CONFIG);
  if (read16(virtio->common + CONFIG_MSIX_VECTOR) != MSIX_CONFIG) fail("device refuses the config vector");
  step("MSI-X: %u vectors, table at 0x%lx\n", entries, table);
}

static void use_intx(struct virtio *virtio) {
  isr_status = virtio->isr;
  intx_pin = options.intx_gsi;
  if (intx_pin == GSI_FROM_CONFIG) {
    if (!pci_read8(virtio->function, PCI_INTERRUPT_PIN)) fail("function has no INTx pin");
    intx_pin = pci_read8(virtio->function, PCI_INTERRUPT_LINE);
  }
  if (!ioapic_route(intx_pin, VECTOR_INTX)) fail("no such IOAPIC pin: is intx_gsi= needed?");
  has_intx_pin = true;
  step("INTx: IOAPIC pin %u\n", intx_pin);
}

void virtio_interrupts(struct virtio *virtio) {
  if (options.intx) use_intx(virtio);
  else use_msix(virtio);
}

static void write64(u64 address, u64 value) {
  write32(address, (u32)value);
  write32(address + 4, (u32)(value >> 32));
}

void virtio_queue(struct virtio *virtio, struct queue *queue, u16 index, u16 vector, void *memory) {
  u64 common = virtio->common;
  if (read16(common + NUM_QUEUES) <= index) fail("too few queues");
  write16(common + QUEUE_SELECT, index);
  u16 most = read16(common + QUEUE_SIZE), size = QUEUE_MAX;
  while (size > most) size /= 2;
  if (!size) fail("queue of size 0");
  write16(common + QUEUE_SIZE, size);

  /* 256 descriptors of 16 bytes, then the available and the used ring in the second page. */
  u8 *bytes = memory;
  queue->index = index;
  queue->size = size;
  queue->descriptors = memory;
  queue->avail = (volatile u16 *)(bytes + 4096);
  queue->used = (volatile u16 *)(bytes + 4096 + 1024);
  write64(common + QUEUE_DESC, (u64)queue->descriptors);
  write64(common + QUEUE_DRIVER, (u64)queue->avail);
  write64(common + QUEUE_DEVICE, (u64)queue->used);
  if (!options.intx) {
    write16(common + QUEUE_MSIX_VECTOR, vector);
    if (read16(common + QUEUE_MSIX_VECTOR) != vector) fail("device refuses a queue vector");
  }
  queue->doorbell = virtio->notify + (u64)read16(common + QUEUE_NOTIFY_OFF) * virtio->notify_multiplier;
  write16(common + QUEUE_ENABLE, 1);
  step("queue %u: %u entries, doorbell at 0x%lx\n", index, size, queue->doorbell);
}

void virtio_driver_ok(struct virtio *virtio) { add_status(virtio, DRIVER_OK); }

void virtio_stop(struct virtio *virtio) {
  if (virtio->common) write8(virtio->common + DEVICE_STATUS, 0);
  if (has_intx_pin) ioapic_mask(intx_pin);
  u8 cap = options.intx ? 0 : pci_capability(virtio->function, PCI_CAP_MSIX, 0);
  if (cap) pci_write16(virtio->function, cap + MSIX_CONTROL, 0);
  u16 command = pci_read16(virtio->function, PCI_COMMAND) & (u16)~PCI_COMMAND_MASTER;
  pci_write16(virtio->function, PCI_COMMAND, command);
}
