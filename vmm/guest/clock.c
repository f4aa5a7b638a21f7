#include "clock.h"
#include "trap.h"

#define LAPIC_LVT_TIMER 0x320
#define LAPIC_TMICT 0x380
#define LAPIC_TMCCT 0x390
#define LAPIC_TDCR 0x3e0
#define TDCR_BY_1 0xb
#define LVT_MASKED 0x10000
#define LVT_PERIODIC 0x20000
#define TICK_NS 10000000u

static u64 khz;

static bool calibrate(void) {
  write32(LAPIC_BASE + LAPIC_LVT_TIMER, LVT_MASKED);
  write32(LAPIC_BASE + LAPIC_TMICT, 0xffffffff);
  u32 first = read32(LAPIC_BASE + LAPIC_TMCCT), passed;
  u64 start = rdtsc(), elapsed;
  do {
    passed = first - read32(LAPIC_BASE + LAPIC_TMCCT);
    elapsed = rdtsc() - start;
    if (elapsed > 20000000000ul) return false; /* seconds, at any TSC rate there is */
  } while (passed < TICK_NS);
  khz = elapsed * 1000000 / passed;
  return true;
}

bool clock_init(u64 tsc_khz) {
  write32(LAPIC_BASE + LAPIC_TDCR, TDCR_BY_1);
  khz = tsc_khz;
  if (!khz && !calibrate()) return false;
  write32(LAPIC_BASE + LAPIC_LVT_TIMER, VECTOR_TIMER | LVT_PERIODIC);
  write32(LAPIC_BASE + LAPIC_TMICT, TICK_NS);
  return true;
}

u64 clock_khz(void) { return khz; }
u64 cycles(u64 us) { return us * khz / 1000; }
u64 microseconds(u64 cycles) { return cycles * 1000 / khz; }
