#include "dhcp.h"
#include "clock.h"
#include "inet.h"
#include "options.h"
#include "print.h"

#define MAGIC be32(0x63825363)
#define BOOTREQUEST 1
#define BOOTREPLY 2
#define FLAG_BROADCAST be16(0x8000)
#define OPTION_PAD 0
#define OPTION_ROUTER 3
#define OPTION_REQUESTED 50
#define OPTION_TYPE 53
#define OPTION_SERVER 54
#define OPTION_PARAMETERS 55
#define OPTION_END 255
enum { DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5 };

struct message {
  u8 op, hardware, hardware_bytes, hops;
  u32 xid;
  u16 seconds, flags;
  u32 client, yours, next_server, relay;
  u8 mac[16], server_name[64], file[128];
  u32 magic;
  u8 options[64];
} __attribute__((packed));
#define FIXED_BYTES (sizeof(struct message) - 64)

static u32 xid;
static u8 expected; /* the awaited message type */
static struct lease {
  u32 ip, server, router;
} lease;

static u8 *put_ip(u8 *at, u8 option, u32 ip) {
  at[0] = option;
  at[1] = 4;
  *(u32 *)(at + 2) = ip;
  return at + 6;
}

static void send(u8 type) {
  struct message *message = (struct message *)udp_begin(FLOW_OTHER, &broadcast, PORT_DHCP_CLIENT, PORT_DHCP_SERVER,
                                                        sizeof *message, NULL);
  if (!message) return;
  clear(message, sizeof *message);
  message->op = BOOTREQUEST;
  message->hardware = 1;
  message->hardware_bytes = 6;
  message->xid = xid;
  message->flags = FLAG_BROADCAST;
  copy(message->mac, nic.mac, 6);
  message->magic = MAGIC;
  u8 *at = message->options;
  *at++ = OPTION_TYPE;
  *at++ = 1;
  *at++ = type;
  if (type == REQUEST) {
    at = put_ip(at, OPTION_REQUESTED, lease.ip);
    at = put_ip(at, OPTION_SERVER, lease.server);
  }
  *at++ = OPTION_PARAMETERS;
  *at++ = 2;
  *at++ = 1; /* subnet mask: some servers send nothing without it */
  *at++ = OPTION_ROUTER;
  *at = OPTION_END;
  expected = type == DISCOVER ? OFFER : ACK;
  udp_publish(sizeof *message);
  nic_kick();
}

void dhcp_receive(const u8 *payload, u32 bytes, u32 from) {
  const struct message *message = (const struct message *)payload;
  if (bytes <= FIXED_BYTES || message->op != BOOTREPLY || message->xid != xid || message->magic != MAGIC) return;
  if (!equal(message->mac, nic.mac, 6)) return;
  struct lease seen = {message->yours, from, 0};
  u8 type = 0;
  for (u32 at = FIXED_BYTES; at < bytes && payload[at] != OPTION_END;) {
    if (payload[at] == OPTION_PAD) {
      at++;
      continue;
    }
    if (at + 1 >= bytes || at + 2 + payload[at + 1] > bytes) return;
    const u8 *value = payload + at + 2;
    u8 option = payload[at], length = payload[at + 1];
    if (option == OPTION_TYPE && length == 1) type = *value;
    if (option == OPTION_SERVER && length == 4) seen.server = *(const u32 *)value;
    if (option == OPTION_ROUTER && length >= 4) seen.router = *(const u32 *)value;
    at += 2u + length;
  }
  if (type != expected || !seen.ip) return;
  lease = seen;
  expected = 0;
}

static bool answered(void) { return !expected; }

bool dhcp_lease(void) {
  for (u32 tries = 0; tries < 2; tries++) {
    xid = (u32)rdtsc() ^ nic.mac[5];
    send(DISCOVER);
    if (!nic_wait(answered, 1000000)) continue;
    send(REQUEST);
    if (!nic_wait(answered, 1000000)) continue;
    own.ip = lease.ip;
    gateway.ip = lease.router ? lease.router : options.gw;
    return true;
  }
  return false;
}
