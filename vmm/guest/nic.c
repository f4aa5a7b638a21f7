#include "nic.h"
#include "clock.h"
#include "inet.h"
#include "options.h"
#include "print.h"
#include "trap.h"
#include "virtio.h"

#define VIRTIO_NET_F_MTU 3
#define VIRTIO_NET_F_MAC 5
#define NET_CONFIG_MTU 10
#define NET_HEADER 12 /* struct virtio_net_hdr with num_buffers; all zero: no offloads */
#define BUFFER_BYTES 2048
#define AVAIL_NO_INTERRUPT 1

struct nic nic;

static struct virtio virtio;
static bool started;
static struct queue rx, tx;
static u8 rx_memory[QUEUE_BYTES] __attribute__((aligned(4096)));
static u8 tx_memory[QUEUE_BYTES] __attribute__((aligned(4096)));
static u8 rx_buffers[QUEUE_MAX][BUFFER_BYTES] __attribute__((aligned(4096)));
static u8 tx_buffers[QUEUE_MAX][BUFFER_BYTES] __attribute__((aligned(4096)));

static u16 free_slots[QUEUE_MAX]; /* a stack */
static u32 free_count, current;
static u8 filled_by[QUEUE_MAX];
static u32 refilled;

static void read_config(u64 features) {
  static const u8 fallback[6] = {0x52, 0x54, 0x00, 0x74, 0x73, 0x76};
  bool has_mac = virtio.device && features & 1ul << VIRTIO_NET_F_MAC;
  for (u32 i = 0; i < 6; i++) nic.mac[i] = has_mac ? read8(virtio.device + i) : fallback[i];
  nic.mtu = options.mtu;
  if (virtio.device && features & 1ul << VIRTIO_NET_F_MTU) {
    u16 mtu = read16(virtio.device + NET_CONFIG_MTU);
    if (mtu >= 576 && mtu < nic.mtu) nic.mtu = mtu;
  }
  step("MAC %02x:%02x:%02x:%02x:%02x:%02x%s, MTU %u\n", nic.mac[0], nic.mac[1], nic.mac[2], nic.mac[3], nic.mac[4],
       nic.mac[5], has_mac ? "" : " (our own)", nic.mtu);
}

void nic_start(bdf function) {
  if (started) {
    clear(&virtio, sizeof virtio);
    clear(&rx, sizeof rx);
    clear(&tx, sizeof tx);
    clear(rx_memory, sizeof rx_memory);
    clear(tx_memory, sizeof tx_memory);
    clear(filled_by, sizeof filled_by);
    free_count = refilled = 0;
  }
  started = true;
  virtio_find(&virtio, function);
  u64 features = virtio_negotiate(&virtio, 1ul << VIRTIO_F_VERSION_1 | 1ul << VIRTIO_F_ACCESS_PLATFORM |
                                               1ul << VIRTIO_F_ORDER_PLATFORM | 1ul << VIRTIO_NET_F_MAC |
                                               1ul << VIRTIO_NET_F_MTU);
  read_config(features);
  virtio_interrupts(&virtio);
  virtio_queue(&virtio, &rx, 0, MSIX_RX, rx_memory);
  virtio_queue(&virtio, &tx, 1, MSIX_TX, tx_memory);
  for (u32 slot = 0; slot < rx.size; slot++) {
    rx.descriptors[slot] = (struct descriptor){(u64)rx_buffers[slot], BUFFER_BYTES, DESCRIPTOR_WRITE, 0};
    queue_add(&rx, (u16)slot);
  }
  for (u32 slot = 0; slot < tx.size; slot++) {
    tx.descriptors[slot].address = (u64)tx_buffers[slot];
    free_slots[free_count++] = (u16)slot;
  }
  virtio_driver_ok(&virtio);
  queue_kick(&rx);
}

void nic_stop(void) {
  if (started) virtio_stop(&virtio);
}

static void reclaim(void) {
  u32 length;
  while (queue_pending(&tx)) {
    u16 slot = (u16)(queue_take(&tx, &length) & (QUEUE_MAX - 1));
    if (free_count < tx.size) free_slots[free_count++] = slot;
  }
}

struct frame_buffer nic_buffer(enum flow flow) {
  if (!free_count) reclaim();
  if (!free_count) return (struct frame_buffer){NULL, false};
  current = free_slots[free_count - 1];
  bool kept = flow != FLOW_OTHER && filled_by[current] == flow;
  filled_by[current] = flow;
  return (struct frame_buffer){tx_buffers[current] + NET_HEADER, kept};
}

void nic_publish(u32 bytes) {
  free_count--;
  tx.descriptors[current].length = NET_HEADER + bytes;
  nic.tx_packets++;
  nic.tx_bytes += bytes;
  queue_add(&tx, (u16)current);
}

void nic_kick(void) { queue_kick(&tx); }
void nic_tx_interrupts(bool on) { tx.avail[0] = on ? 0 : AVAIL_NO_INTERRUPT; }
bool nic_tx_done(void) { return tx.used[1] == tx.added; }

void nic_poll(void) {
  while (queue_pending(&rx)) {
    u32 length, slot = queue_take(&rx, &length);
    if (!options.trusts_rx_id) slot &= QUEUE_MAX - 1;
    nic.received_at = rdtsc();
    if (length > NET_HEADER && length <= BUFFER_BYTES) {
      nic.rx_packets++;
      nic.rx_bytes += length - NET_HEADER;
      inet_receive(rx_buffers[slot] + NET_HEADER, length - NET_HEADER);
    }
    queue_add(&rx, (u16)slot);
    /* A device that found the ring empty sleeps until it is kicked. Every buffer was ours then, so this code runs. */
    if (++refilled * 2 >= rx.size) {
      refilled = 0;
      queue_kick(&rx);
    }
  }
}

static bool rx_pending(void) { return queue_pending(&rx); }

static u64 interrupts_seen;
static bool rx_interrupted(void) { return rx_interrupts + intx_interrupts != interrupts_seen; }

void nic_idle(bool (*ready)(void)) {
  if (options.spin) {
    pause();
    return;
  }
  cli();
  if (ready()) sti();
  else sleep();
}

bool nic_wait(bool (*done)(void), u64 us) {
  u64 deadline = rdtsc() + cycles(us);
  for (;;) {
    u64 ticks = timer_interrupts;
    while (!options.spin && !rx_interrupted() && timer_interrupts == ticks) nic_idle(rx_interrupted);
    if (!options.spin && !rx_interrupted() && rx_pending()) nic.late++;
    interrupts_seen = rx_interrupts + intx_interrupts; /* before the poll: later frames interrupt again */
    nic_poll();
    if (done()) return true;
    if (rdtsc() >= deadline) return false;
  }
}

bool nic_wait_polling(bool (*done)(void), u64 us) {
  u64 deadline = rdtsc() + cycles(us);
  for (;;) {
    nic_poll();
    if (done()) return true;
    if (rdtsc() >= deadline) return false;
    nic_idle(rx_pending);
  }
}
