#ifndef GUEST_INET_H
#define GUEST_INET_H
#include "nic.h"
/* Ethernet, ARP, IPv4, replies to other hosts, and checksums. IP addresses are four bytes in wire order. */

struct ethernet {
  u8 to[6], from[6];
  u16 type;
} __attribute__((packed));

struct ipv4 {
  u8 version, tos;
  u16 length, id, fragment;
  u8 ttl, protocol;
  u16 checksum;
  u32 from, to;
} __attribute__((packed));

struct icmp {
  u8 type, code;
  u16 checksum, id, sequence;
} __attribute__((packed));

struct udp {
  u16 from, to, length, checksum;
} __attribute__((packed));

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8
#define IP_HEADERS (sizeof(struct ethernet) + sizeof(struct ipv4))
#define PORT_ECHO 7

struct address {
  u32 ip;
  u8 mac[6];
};
extern struct address own; /* its mac is nic.mac; ip 0 while unknown */
extern struct address gateway;
extern const struct address broadcast;

void inet_receive(u8 *frame, u32 length); /* called by nic_poll */

/* Resolves the gateway's MAC; false if there is no reply. */
bool arp_gateway(void);

/* A buffer with Ethernet and IPv4 headers for `bytes` of payload; NULL if none is free. */
u8 *ip_begin(enum flow flow, const struct address *to, u8 protocol, u32 bytes, bool *kept);
void ip_publish(u32 bytes);
/* Writes a UDP header; its checksum stays 0, which means none. */
u8 *udp_begin(enum flow flow, const struct address *to, u16 from_port, u16 to_port, u32 bytes, bool *kept);
void udp_publish(u32 bytes);

/* Internet checksum arithmetic (RFC 1071): sums are unfolded ones' complement sums of little-endian 16-bit words. */
u64 sum_bytes(const void *from, u64 bytes, u64 sum);
u16 sum_fold(u64 sum);
u64 sum_ipv4(const void *header); /* a header without options */
u64 sum_pseudo(u32 from, u32 to, u8 protocol, u32 bytes);

/* Receivers of packets addressed to us. The IPv4 checksum is verified, that of the payload is not. */
void ping_receive(const struct icmp *packet, u32 bytes, u32 from);
void dhcp_receive(const u8 *payload, u32 bytes, u32 from);
void udp_echo_receive(const u8 *payload, u32 bytes);
void tcp_receive(const u8 *segment, u32 bytes);
#define PORT_DHCP_SERVER 67
#define PORT_DHCP_CLIENT 68
#define PORT_UDP_ECHO_CLIENT 50007

#endif
