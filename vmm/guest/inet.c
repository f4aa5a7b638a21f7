#include "inet.h"

#define TYPE_ARP be16(0x0806)
#define TYPE_IPV4 be16(0x0800)
#define ARP_REQUEST be16(1)
#define ARP_REPLY be16(2)
#define ETHERNET_MINIMUM 60
#define FRAGMENT_MASK be16(0x3fff) /* more fragments, or an offset */

struct arp {
  struct ethernet ethernet;
  u16 hardware, protocol;
  u8 hardware_bytes, protocol_bytes;
  u16 operation;
  u8 from_mac[6];
  u32 from_ip;
  u8 to_mac[6];
  u32 to_ip;
} __attribute__((packed));

struct address own, gateway;
const struct address broadcast = {0xffffffff, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
static bool gateway_known;

static void copy_mac(u8 *to, const u8 *from) {
  *(u32 *)to = *(const u32 *)from;
  *(u16 *)(to + 4) = *(const u16 *)(from + 4);
}

static void arp_send(u16 operation, const u8 *to_mac, u32 to_ip) {
  struct arp *arp = (struct arp *)nic_buffer(FLOW_OTHER).frame;
  if (!arp) return;
  clear(arp, ETHERNET_MINIMUM);
  copy_mac(arp->ethernet.to, to_mac);
  copy_mac(arp->ethernet.from, nic.mac);
  arp->ethernet.type = TYPE_ARP;
  arp->hardware = be16(1);
  arp->protocol = TYPE_IPV4;
  arp->hardware_bytes = 6;
  arp->protocol_bytes = 4;
  arp->operation = operation;
  copy_mac(arp->from_mac, nic.mac);
  arp->from_ip = own.ip;
  if (operation == ARP_REPLY) copy_mac(arp->to_mac, to_mac);
  arp->to_ip = to_ip;
  nic_publish(ETHERNET_MINIMUM);
  nic_kick();
}

static void arp_receive(const struct arp *arp, u32 length) {
  if (length < sizeof *arp || arp->protocol != TYPE_IPV4 || arp->protocol_bytes != 4 || arp->hardware_bytes != 6)
    return;
  if (!own.ip || arp->to_ip != own.ip) return;
  if (arp->operation == ARP_REQUEST) arp_send(ARP_REPLY, arp->from_mac, arp->from_ip);
  if (arp->operation == ARP_REPLY && arp->from_ip == gateway.ip) {
    copy_mac(gateway.mac, arp->from_mac);
    gateway_known = true;
  }
}

static bool knows_gateway(void) { return gateway_known; }

bool arp_gateway(void) {
  gateway_known = false;
  for (u32 tries = 0; tries < 3; tries++) {
    arp_send(ARP_REQUEST, broadcast.mac, gateway.ip);
    if (nic_wait(knows_gateway, 500000)) return true;
  }
  return false;
}

u8 *ip_begin(enum flow flow, const struct address *to, u8 protocol, u32 bytes, bool *kept) {
  struct frame_buffer buffer = nic_buffer(flow);
  if (kept) *kept = buffer.kept;
  if (!buffer.frame) return NULL;
  if (buffer.kept) return buffer.frame + IP_HEADERS;
  struct ethernet *ethernet = (struct ethernet *)buffer.frame;
  copy_mac(ethernet->to, to->mac);
  copy_mac(ethernet->from, nic.mac);
  ethernet->type = TYPE_IPV4;
  struct ipv4 *ip = (struct ipv4 *)(ethernet + 1);
  ip->version = 0x45;
  ip->tos = 0;
  ip->length = be16((u16)(sizeof *ip + bytes));
  ip->id = 0; /* never fragmented, so a constant identification suffices (RFC 6864) */
  ip->fragment = be16(0x4000);
  ip->ttl = 64;
  ip->protocol = protocol;
  ip->checksum = 0;
  ip->from = own.ip;
  ip->to = to->ip;
  ip->checksum = (u16)~sum_fold(sum_ipv4(ip));
  return (u8 *)(ip + 1);
}

void ip_publish(u32 bytes) { nic_publish((u32)IP_HEADERS + bytes); }

u8 *udp_begin(enum flow flow, const struct address *to, u16 from_port, u16 to_port, u32 bytes, bool *kept) {
  struct udp *udp = (struct udp *)ip_begin(flow, to, PROTOCOL_UDP, (u32)sizeof *udp + bytes, kept);
  if (!udp) return NULL;
  if (!kept || !*kept)
    *udp = (struct udp){be16(from_port), be16(to_port), be16((u16)(sizeof *udp + bytes)), 0};
  return (u8 *)(udp + 1);
}

void udp_publish(u32 bytes) { ip_publish((u32)sizeof(struct udp) + bytes); }

static void icmp_answer(const struct ethernet *ethernet, const struct icmp *request, u32 bytes, u32 from) {
  struct address peer = {.ip = from};
  copy_mac(peer.mac, ethernet->from);
  struct icmp *reply = (struct icmp *)ip_begin(FLOW_OTHER, &peer, PROTOCOL_ICMP, bytes, NULL);
  if (!reply) return;
  copy(reply, request, bytes);
  reply->type = ICMP_ECHO_REPLY;
  reply->checksum = 0;
  reply->checksum = (u16)~sum_fold(sum_bytes(reply, bytes, 0));
  ip_publish(bytes);
  nic_kick();
}

static void icmp_receive(const struct ethernet *ethernet, const struct icmp *packet, u32 bytes, u32 from) {
  if (bytes < sizeof *packet || packet->code) return;
  if (packet->type == ICMP_ECHO_REPLY) ping_receive(packet, bytes, from);
  if (packet->type != ICMP_ECHO || sum_fold(sum_bytes(packet, bytes, 0)) != 0xffff) return;
  icmp_answer(ethernet, packet, bytes, from);
}

static void udp_receive(const struct ipv4 *ip, const struct udp *udp, u32 bytes) {
  if (bytes < sizeof *udp) return;
  u32 length = be16(udp->length);
  if (length < sizeof *udp || length > bytes) return;
  const u8 *payload = (const u8 *)(udp + 1);
  u32 count = length - (u32)sizeof *udp;
  /* Echoes are compared with what was sent, byte by byte: a stronger check than the checksum, for half the work. */
  if (udp->to == be16(PORT_UDP_ECHO_CLIENT) && udp->from == be16(PORT_ECHO) && ip->from == gateway.ip)
    udp_echo_receive(payload, count);
  if (udp->to != be16(PORT_DHCP_CLIENT) || udp->from != be16(PORT_DHCP_SERVER)) return;
  if (udp->checksum && sum_fold(sum_bytes(udp, length, sum_pseudo(ip->from, ip->to, PROTOCOL_UDP, length))) != 0xffff)
    return;
  dhcp_receive(payload, count, ip->from);
}

static void ip_receive(const struct ethernet *ethernet, const struct ipv4 *ip, u32 bytes) {
  u32 header = (ip->version & 15) * 4u, length = be16(ip->length);
  if (ip->version >> 4 != 4 || header < sizeof *ip || length < header || length > bytes) return;
  u64 sum = header == sizeof *ip ? sum_ipv4(ip) : sum_bytes(ip, header, 0);
  if (ip->fragment & FRAGMENT_MASK || sum_fold(sum) != 0xffff) return;
  /* A DHCP server may send its answer to the address that it is about to lease. */
  if (own.ip ? ip->to != own.ip : ip->protocol != PROTOCOL_UDP) return;
  const u8 *payload = (const u8 *)ip + header;
  u32 count = length - header;
  if (ip->protocol == PROTOCOL_ICMP) icmp_receive(ethernet, (const struct icmp *)payload, count, ip->from);
  if (ip->protocol == PROTOCOL_UDP) udp_receive(ip, (const struct udp *)payload, count);
  if (ip->protocol == PROTOCOL_TCP && ip->from == gateway.ip &&
      sum_fold(sum_bytes(payload, count, sum_pseudo(ip->from, ip->to, PROTOCOL_TCP, count))) == 0xffff)
    tcp_receive(payload, count);
}

void inet_receive(u8 *frame, u32 length) {
  const struct ethernet *ethernet = (const struct ethernet *)frame;
  if (length >= sizeof *ethernet && ethernet->type == TYPE_ARP) arp_receive((const struct arp *)frame, length);
  if (length >= IP_HEADERS && ethernet->type == TYPE_IPV4)
    ip_receive(ethernet, (const struct ipv4 *)(ethernet + 1), length - (u32)sizeof *ethernet);
}
