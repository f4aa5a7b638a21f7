#ifndef GUEST_NIC_H
#define GUEST_NIC_H
#include "pci.h"
/* virtio-net: frames out, frames in, waiting. */

/* Who filled a transmit buffer last. A flow whose frames differ by a few bytes finds the rest still there. */
enum flow { FLOW_OTHER, FLOW_UDP_ECHO };
struct frame_buffer {
  u8 *frame; /* room for the MTU and 14 bytes; NULL if all buffers are with the device */
  bool kept; /* still holds what the same flow wrote before; never for FLOW_OTHER */
};

struct nic {
  u8 mac[6];
  u32 mtu;
  u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
  u64 late;        /* times the timer brought us to a frame: its interrupt was late or lost */
  u64 received_at; /* TSC when the frame at hand was found in the ring */
};
extern struct nic nic;

void nic_start(bdf function);
void nic_stop(void); /* safe at any time, also before nic_start */

struct frame_buffer nic_buffer(enum flow flow);
void nic_publish(u32 bytes); /* the buffer taken last */
void nic_kick(void);         /* tells the device of everything published */
void nic_tx_interrupts(bool on);
bool nic_tx_done(void); /* the device has returned every buffer */

/* Hands every frame received to inet_receive and gives the buffers back. */
void nic_poll(void);
/*
 * Until done() or the time is over; true if done. nic_wait looks at the ring when an rx interrupt has come, or a tick of
 * the timer: a lost interrupt costs 10 ms and counts as late. nic_wait_polling looks before each sleep. With spin, both
 * look all the time.
 */
bool nic_wait(bool (*done)(void), u64 us);
bool nic_wait_polling(bool (*done)(void), u64 us);
/* Sleeps until an interrupt, unless ready() already; with spin, one pause. */
void nic_idle(bool (*ready)(void));

#endif
