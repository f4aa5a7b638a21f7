#include "ping.h"
#include "clock.h"
#include "inet.h"
#include "options.h"
#include "print.h"

#define IDENTIFIER be16(0x7476)
#define LEAST_BYTES 56
#define PATIENCE_US 2000000

enum outcome { MISSING, OK, WRONG_CHECKSUM, WRONG_LENGTH, WRONG_PAYLOAD, NOT_SENT };
static const char *const words[] = {"no reply", "ok", "wrong checksum", "wrong length", "wrong payload", "not sent"};

static struct result {
  u32 bytes, us;
  enum outcome outcome;
} results[MAX_PINGS];

static u64 payload[2048 / 8];
static u32 payload_bytes;
static u16 sequence;
static bool answered;
static enum outcome outcome;
static u64 answered_at;
static u32 good;

static void fill(u64 seed) {
  u64 x = seed * 0x9e3779b97f4a7c15;
  for (u32 i = 0; i < (payload_bytes + 7) / 8; i++) {
    x = x * 6364136223846793005ul + 1442695040888963407ul;
    payload[i] = x ^ x >> 32;
  }
}

void ping_receive(const struct icmp *packet, u32 bytes, u32 from) {
  if (answered || packet->id != IDENTIFIER || packet->sequence != be16(sequence) || from != gateway.ip) return;
  answered_at = nic.received_at;
  answered = true;
  outcome = OK;
  if (bytes != sizeof *packet + payload_bytes) outcome = WRONG_LENGTH;
  else if (sum_fold(sum_bytes(packet, bytes, 0)) != 0xffff) outcome = WRONG_CHECKSUM;
  else if (!equal(packet + 1, payload, payload_bytes)) outcome = WRONG_PAYLOAD;
}

static bool is_answered(void) { return answered; }

static void ping(struct result *result) {
  u32 bytes = (u32)sizeof(struct icmp) + payload_bytes;
  fill(sequence);
  answered = false;
  struct icmp *packet = (struct icmp *)ip_begin(FLOW_OTHER, &gateway, PROTOCOL_ICMP, bytes, NULL);
  result->outcome = NOT_SENT;
  if (!packet) return;
  *packet = (struct icmp){ICMP_ECHO, 0, 0, IDENTIFIER, be16(sequence)};
  copy(packet + 1, payload, payload_bytes);
  packet->checksum = (u16)~sum_fold(sum_bytes(packet, bytes, 0));
  ip_publish(bytes);
  u64 start = rdtsc();
  nic_kick();
  bool came = nic_wait(is_answered, PATIENCE_US);
  result->outcome = came ? outcome : MISSING;
  result->us = came ? (u32)microseconds(answered_at - start) : 0;
  if (result->outcome == OK) good++;
}

void ping_run(void) {
  u32 span = nic.mtu - 28 - LEAST_BYTES, count = options.pings;
  good = 0;
  for (u32 i = 0; i < count; i++) {
    payload_bytes = LEAST_BYTES + (count > 1 ? span * i / (count - 1) : 0);
    sequence = (u16)(i + 1);
    results[i].bytes = payload_bytes;
    ping(&results[i]);
  }
}

u32 ping_replies(void) { return good; }

void ping_report(void) {
  for (u32 i = 0; i < options.pings; i++) {
    const struct result *result = &results[i];
    step("ping %2u: %u bytes from " IPV4 ": %s", i + 1, result->bytes, IPV4_BYTES(gateway.ip), words[result->outcome]);
    if (result->outcome == MISSING || result->outcome == NOT_SENT) step("\n");
    else step(", %u us\n", result->us);
  }
}
