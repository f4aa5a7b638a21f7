/* Measures the round trip from doorbell to tx interrupt, one frame at a time. */
#include "clock.h"
#include "echo.h"
#include "inet.h"
#include "options.h"
#include "print.h"
#include "samples.h"
#include "trap.h"

#define FRAME_BYTES 60
#define TYPE_EXPERIMENTAL be16(0x88b5) /* IEEE 802 local experimental: no replies */
#define PATIENCE_US 1000000

static u32 done;
static u64 total, least = ~0ul, most, interrupts_before;

static u64 interrupts(void) { return tx_interrupts + intx_interrupts; }

static bool came_back(void) { return nic_tx_done() && (options.spin || interrupts() != interrupts_before); }

static bool round_trip(void) {
  u8 *frame = nic_buffer(FLOW_OTHER).frame;
  if (!frame) return false;
  clear(frame, FRAME_BYTES);
  struct ethernet *ethernet = (struct ethernet *)frame;
  copy(ethernet->to, broadcast.mac, 6);
  copy(ethernet->from, nic.mac, 6);
  ethernet->type = TYPE_EXPERIMENTAL;
  u64 patience = cycles(PATIENCE_US);
  interrupts_before = interrupts();
  u64 start = rdtsc(), passed = 0;
  nic_publish(FRAME_BYTES);
  nic_kick();
  while (!came_back()) {
    nic_idle(came_back);
    passed = rdtsc() - start;
    if (passed > patience) return false;
  }
  passed = rdtsc() - start;
  total += passed;
  sample(passed);
  if (passed < least) least = passed;
  if (passed > most) most = passed;
  return true;
}

void doorbell_run(void) {
  for (; done < options.doorbell && round_trip(); done++) nic_poll();
}

bool doorbell_report(void) {
  u64 mean = done ? total / done : 0;
  print("doorbell: %u of %u round trips, %lu cycles each (%lu us), least %lu, most %lu\n", done, options.doorbell, mean,
        microseconds(mean), done ? least : 0, most);
  samples_print("doorbell");
  return done == options.doorbell;
}
