#ifndef GUEST_NIC_H
#define GUEST_NIC_H
#include "pci.h"
/* virtio-net: sending, receiving, waiting. */

#define VIRTIO_NET 0x10411af4

/* The flow that last filled a transmit buffer: if its frames differ by a few bytes, the rest need not be written again.
 */
enum flow { FLOW_OTHER, FLOW_UDP_ECHO };
struct frame_buffer {
  u8 *frame; /* room for the MTU and 14 bytes; NULL if the device has all buffers */
  bool kept; /* still holds the same flow's last frame; never for FLOW_OTHER */
};

struct nic {
  u8 mac[6];
  u32 mtu;
  u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
  u64 late;        /* frames found by the timer: their interrupts were late or lost */
  u64 received_at; /* TSC when the current frame was found in the ring */
};
extern struct nic nic;

void nic_start(bdf function); /* again for another device, once the last one is stopped */
void nic_stop(void); /* safe at any time, even before nic_start */

struct frame_buffer nic_buffer(enum flow flow);
void nic_publish(u32 bytes); /* publishes the buffer taken last */
void nic_kick(void);         /* notifies the device of everything published */
void nic_tx_interrupts(bool on);
bool nic_tx_done(void); /* the device has returned every buffer */

/* Passes every received frame to inet_receive and returns the buffers to the device. */
void nic_poll(void);
/* Waits until done() or the time limit; true if done. nic_wait checks the ring after an rx interrupt or a timer tick: a
 * lost interrupt costs 10 ms and counts as late. nic_wait_polling checks before each sleep. With spin, both poll
 * continuously. */
bool nic_wait(bool (*done)(void), u64 us);
bool nic_wait_polling(bool (*done)(void), u64 us);
/* Sleeps until an interrupt, unless ready() already; with spin, one PAUSE. */
void nic_idle(bool (*ready)(void));

#endif
