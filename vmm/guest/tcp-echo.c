/* A TCP client (RFC 9293) for one connection: in-order receive, go-back-N, fixed time-out, no options but MSS. */
#include "clock.h"
#include "echo.h"
#include "inet.h"
#include "options.h"
#include "print.h"

struct tcp {
  u16 from, to;
  u32 sequence, acknowledged;
  u8 offset, flags;
  u16 window, checksum, urgent;
} __attribute__((packed));

#define FIN 1
#define SYN 2
#define RST 4
#define PSH 8
#define ACK 16
#define OPTION_MSS 2
#define DEFAULT_MSS 536
#define MOST_IN_FLIGHT 32768
#define RECEIVE_WINDOW 0xffff /* constant: data is checked on arrival and not stored */
#define TIME_OUT_US 500000
#define TIME_OUTS 6

/* Both streams repeat the pattern. Its period is prime, so no segment starts at the same place as the previous one. */
#define PERIOD 16381
static u8 pattern[PERIOD + 2048] __attribute__((aligned(8)));

enum state { CLOSED, SYN_SENT, OPEN, REFUSED, RESET, CUT_SHORT, CORRUPT };
static const char *const words[] = {"nobody answers", "nobody answers",        "stalled",       "refused",
                                    "reset",          "peer closed too early", "wrong payload"};

static struct {
  enum state state;
  u16 port;
  u32 first;            /* our initial sequence number */
  u32 unacked, next;    /* oldest unacknowledged, next to send */
  u32 window, mss;      /* the peer's */
  u32 expected;         /* next sequence number of the peer */
  u64 echoed;           /* bytes returned and verified */
  bool ack_due, peer_done;
  u64 in, out, resent, elapsed;
  u64 in_seen;
} tcp;

static u32 end_of_stream(void) { return tcp.first + 1 + (u32)options.tcp; }
static bool finished(void) { return tcp.peer_done && tcp.unacked == end_of_stream() + 1; }

static bool send(u8 flags, u32 sequence, u32 bytes) {
  u32 header = sizeof(struct tcp) + (flags & SYN ? 4 : 0);
  struct tcp *segment = (struct tcp *)ip_begin(FLOW_OTHER, &gateway, PROTOCOL_TCP, header + bytes, NULL);
  if (!segment) return false;
  *segment = (struct tcp){be16(tcp.port), be16(PORT_ECHO), be32(sequence), flags & ACK ? be32(tcp.expected) : 0,
                          (u8)(header << 2), flags, be16(RECEIVE_WINDOW), 0, 0};
  u8 *options_at = (u8 *)(segment + 1);
  if (flags & SYN) *(u32 *)options_at = be32(OPTION_MSS << 24 | 4 << 16 | (nic.mtu - 40));
  if (bytes) copy((u8 *)segment + header, pattern + (sequence - tcp.first - 1) % PERIOD, bytes);
  u64 sum = sum_bytes(segment, header + bytes, sum_pseudo(own.ip, gateway.ip, PROTOCOL_TCP, header + bytes));
  segment->checksum = (u16)~sum_fold(sum);
  ip_publish(header + bytes);
  tcp.out++;
  if (flags & ACK) tcp.ack_due = false;
  return true;
}

static u32 peer_mss(const u8 *at, const u8 *end) {
  while (at < end && *at) {
    if (*at == 1) {
      at++;
      continue;
    }
    if (end - at < 2 || at[1] < 2 || at[1] > end - at) break;
    if (*at == OPTION_MSS && at[1] == 4) return (u32)at[2] << 8 | at[3];
    at += at[1];
  }
  return DEFAULT_MSS;
}

static void receive_handshake(const struct tcp *segment, u32 header) {
  if ((segment->flags & (SYN | ACK)) != (SYN | ACK) || be32(segment->acknowledged) != tcp.first + 1) return;
  u32 mss = peer_mss((const u8 *)(segment + 1), (const u8 *)segment + header);
  tcp.mss = mss < nic.mtu - 40 ? mss : nic.mtu - 40;
  if (!tcp.mss) tcp.mss = DEFAULT_MSS;
  tcp.expected = be32(segment->sequence) + 1;
  tcp.unacked = tcp.next = tcp.first + 1;
  tcp.window = be16(segment->window);
  tcp.ack_due = true;
  tcp.state = OPEN;
}

static void receive_payload(const u8 *payload, u32 bytes) {
  if (tcp.echoed + bytes > options.tcp || !equal(payload, pattern + tcp.echoed % PERIOD, bytes)) {
    tcp.state = CORRUPT;
    return;
  }
  tcp.echoed += bytes;
  tcp.expected += bytes;
}

void tcp_receive(const u8 *payload, u32 bytes) {
  const struct tcp *segment = (const struct tcp *)payload;
  u32 header = bytes >= sizeof *segment ? (u32)(segment->offset >> 4) * 4 : 0;
  if (header < sizeof *segment || header > bytes || segment->to != be16(tcp.port) || segment->from != be16(PORT_ECHO))
    return;
  if (tcp.state != SYN_SENT && tcp.state != OPEN) return;
  tcp.in++;
  if (segment->flags & RST) {
    tcp.state = tcp.state == SYN_SENT ? REFUSED : RESET;
    return;
  }
  if (tcp.state == SYN_SENT) {
    receive_handshake(segment, header);
    return;
  }
  u32 acknowledged = be32(segment->acknowledged), sequence = be32(segment->sequence), count = bytes - header;
  if (segment->flags & ACK && (s32)(acknowledged - tcp.unacked) >= 0 &&
      (s32)(acknowledged - end_of_stream()) <= 1) {
    tcp.unacked = acknowledged;
    tcp.window = be16(segment->window);
    if ((s32)(tcp.next - tcp.unacked) < 0) tcp.next = tcp.unacked; /* acknowledged after going back */
  }
  if (!count && !(segment->flags & (FIN | SYN))) return;
  tcp.ack_due = true; /* acknowledges what is expected, whatever this was */
  if (sequence != tcp.expected || tcp.peer_done) return;
  if (count) receive_payload(payload + header, count);
  if (segment->flags & FIN && tcp.state == OPEN) {
    tcp.expected++;
    tcp.peer_done = true;
    if (tcp.echoed < options.tcp) tcp.state = CUT_SHORT;
  }
}

/* Sends everything that the windows allow, the FIN once everything has come back, and a bare ACK only if no segment
 * carried it. */
static void send_what_is_due(void) {
  u64 before = tcp.out;
  u32 end = end_of_stream(), limit = tcp.window < MOST_IN_FLIGHT ? tcp.window : MOST_IN_FLIGHT;
  while ((s32)(end - tcp.next) > 0 && tcp.next - tcp.unacked < limit) {
    u32 bytes = end - tcp.next, room = limit - (tcp.next - tcp.unacked);
    if (bytes > tcp.mss) bytes = tcp.mss;
    if (bytes > room) bytes = room;
    if (!send(ACK | (tcp.next + bytes == end ? PSH : 0), tcp.next, bytes)) break;
    tcp.next += bytes;
  }
  if (tcp.next == end && tcp.echoed == options.tcp && send(FIN | ACK, tcp.next, 0)) tcp.next++;
  if (tcp.ack_due) send(ACK, tcp.next, 0);
  if (tcp.out != before) nic_kick();
}

static bool moved(void) { return tcp.in != tcp.in_seen; }

static bool wait(void) {
  bool came = nic_wait_polling(moved, TIME_OUT_US);
  tcp.in_seen = tcp.in;
  return came;
}

static void go_back(void) {
  tcp.next = tcp.unacked;
  tcp.resent++;
  if (!tcp.window) tcp.window = 1; /* window probe */
}

void tcp_echo_run(void) {
  u64 x = rdtsc();
  for (u32 i = 0; i < sizeof pattern / 8; i++) {
    x = x * 6364136223846793005ul + 1442695040888963407ul;
    ((u64 *)pattern)[i] = x ^ x >> 32;
  }
  copy(pattern + PERIOD, pattern, sizeof pattern - PERIOD);
  nic_tx_interrupts(false);
  u64 start = rdtsc();
  tcp.port = (u16)(49152 + (start >> 4) % 8192);
  tcp.first = (u32)start;
  tcp.state = SYN_SENT;
  u32 time_outs = 0;
  while (tcp.state == SYN_SENT && time_outs < TIME_OUTS) {
    if (send(SYN, tcp.first, 0)) nic_kick();
    if (!wait()) time_outs++;
  }
  time_outs = 0;
  while (tcp.state == OPEN && time_outs < TIME_OUTS) {
    send_what_is_due();
    if (finished()) break;
    if (wait()) {
      time_outs = 0;
      continue;
    }
    time_outs++;
    go_back();
  }
  tcp.elapsed = rdtsc() - start;
  nic_tx_interrupts(true);
}

bool tcp_echo_report(void) {
  bool ok = tcp.state == OPEN && finished();
  u64 us = microseconds(tcp.elapsed) + 1;
  print("tcp: %lu of %lu bytes echoed in %lu us, %lu kB/s each way, %lu segments out, %lu in, %lu time-outs%s%s\n",
        tcp.echoed, options.tcp, us, tcp.echoed * 1000 / us, tcp.out, tcp.in, tcp.resent, ok ? "" : ": ",
        ok ? "" : words[tcp.state]);
  return ok;
}
