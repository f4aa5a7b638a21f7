#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H
#include "pci.h"
/* The virtio PCI transport (virtio 1.2, 4.1) and split queues (2.7). Failures end the guest with VERDICT_VIRTIO. */

#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_ACCESS_PLATFORM 33 /* safe to accept: without a guest IOMMU, DMA addresses are physical */
#define VIRTIO_F_ORDER_PLATFORM 36  /* likewise: x86 keeps stores in order */
#define VIRTIO_MSI_NO_VECTOR 0xffff
#define MSIX_CONFIG 0
#define MSIX_RX 1
#define MSIX_TX 2

#define QUEUE_MAX 256

struct virtio {
  bdf function;
  struct bar bars[6];
  u64 common, notify, isr, device; /* addresses; device is 0 if absent */
  u32 notify_multiplier;
};

struct descriptor {
  u64 address;
  u32 length;
  u16 flags, next;
};
#define DESCRIPTOR_WRITE 2

struct queue {
  u16 index, size;
  u16 added, seen; /* our available and used index */
  u64 doorbell;
  volatile u16 *avail; /* flags, index, ring */
  volatile u16 *used;  /* flags, index, then {u32 id, u32 length} from byte 4 */
  struct descriptor *descriptors;
};

void virtio_find(struct virtio *virtio, bdf function);
/* Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK. Returns the negotiated features: those both wanted and offered. */
u64 virtio_negotiate(struct virtio *virtio, u64 wanted);
/* MSI-X with one vector each for config, rx, tx; or INTx through the IOAPIC. */
void virtio_interrupts(struct virtio *virtio);
/* memory: QUEUE_BYTES, page-aligned, zero. */
void virtio_queue(struct virtio *virtio, struct queue *queue, u16 index, u16 vector, void *memory);
#define QUEUE_BYTES 8192
void virtio_driver_ok(struct virtio *virtio);
/* Device reset, then no bus mastering and no interrupts. */
void virtio_stop(struct virtio *virtio);

static inline bool queue_pending(const struct queue *queue) { return queue->used[1] != queue->seen; }

/* Removes the oldest used element; call only after queue_pending. */
static inline u32 queue_take(struct queue *queue, u32 *length) {
  barrier();
  const volatile u32 *element = (const volatile u32 *)queue->used + 1 + 2 * (queue->seen++ & (queue->size - 1));
  *length = element[1];
  return element[0];
}

/* Makes the buffers visible to the device, which may sleep until queue_kick. */
static inline void queue_add(struct queue *queue, u16 id) {
  queue->avail[2 + (queue->added & (queue->size - 1))] = id;
  barrier();
  queue->avail[1] = ++queue->added;
}

static inline void queue_kick(const struct queue *queue) {
  fence(); /* publish our index before reading its flag */
  if (!(queue->used[0] & 1)) write16(queue->doorbell, queue->index);
}

#endif
