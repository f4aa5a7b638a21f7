#include "clock.h"
#include "echo.h"
#include "inet.h"
#include "options.h"
#include "print.h"
#include "samples.h"

#define STALL_US 500000
#define STALLS 3
#define TRACKED 1024 /* sequence numbers tracked; more than MAX_WINDOW */

static u64 pattern[2048 / 8]; /* the sequence number replaces the first word */
static bool outstanding[TRACKED];
static u64 sent_at[TRACKED]; /* with samples */
static u64 sent, returned, lost, corrupt, strays, elapsed;
static u64 settled; /* returned + lost + corrupt at the last check */

static u64 in_flight(void) { return sent - returned - lost - corrupt; }

void udp_echo_receive(const u8 *payload, u32 bytes) {
  u64 number = bytes >= 8 ? *(const u64 *)payload : ~0ul;
  if (number >= sent || sent - number > TRACKED || !outstanding[number % TRACKED]) {
    strays++;
    return;
  }
  outstanding[number % TRACKED] = false;
  if (options.samples) sample(rdtsc() - sent_at[number % TRACKED]);
  if (bytes == options.udp_bytes && equal(payload + 8, pattern + 1, bytes - 8)) returned++;
  else corrupt++;
}

static bool moved(void) { return returned + corrupt + lost != settled; }

/* Publishes what the window allows and kicks once. */
static void fill_window(void) {
  u32 bytes = options.udp_bytes;
  bool any = false;
  for (; sent < options.udp_count && in_flight() < options.udp_window; sent++) {
    bool kept;
    u8 *payload = udp_begin(FLOW_UDP_ECHO, &gateway, PORT_UDP_ECHO_CLIENT, PORT_ECHO, bytes, &kept);
    if (!payload) break;
    if (!kept) copy(payload, pattern, bytes);
    *(u64 *)payload = sent;
    outstanding[sent % TRACKED] = true;
    if (options.samples) sent_at[sent % TRACKED] = rdtsc();
    udp_publish(bytes);
    any = true;
  }
  if (any) nic_kick();
}

void udp_echo_run(void) {
  u64 x = rdtsc();
  for (u32 i = 0; i < sizeof pattern / sizeof *pattern; i++) {
    x = x * 6364136223846793005ul + 1442695040888963407ul;
    pattern[i] = x ^ x >> 32;
  }
  nic_tx_interrupts(false); /* buffers are reclaimed when they run out */
  u64 start = rdtsc();
  for (u32 stalls = 0; returned + lost + corrupt < options.udp_count && stalls < STALLS;) {
    fill_window();
    settled = returned + corrupt + lost;
    if (nic_wait_polling(moved, STALL_US)) {
      stalls = 0;
      continue;
    }
    stalls++;
    lost += in_flight();
    clear(outstanding, sizeof outstanding);
  }
  elapsed = rdtsc() - start;
  nic_tx_interrupts(true);
}

bool udp_echo_report(void) {
  u64 us = microseconds(elapsed) + 1, bytes = returned * options.udp_bytes;
  print("udp: %lu of %u datagrams of %u bytes returned in %lu us, %lu packets/s, %lu bytes, %lu kB/s each way\n",
        returned, options.udp_count, options.udp_bytes, us, returned * 1000000 / us, bytes, bytes * 1000 / us);
  if (lost || corrupt || strays) print("udp: %lu lost, %lu corrupt, %lu unexpected\n", lost, corrupt, strays);
  samples_print("udp");
  return returned == options.udp_count;
}
