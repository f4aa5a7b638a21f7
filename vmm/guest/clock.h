#ifndef GUEST_CLOCK_H
#define GUEST_CLOCK_H
#include "cpu.h"
/* TSC time, and the periodic tick that bounds every sleep. */

/* Requires an enabled LAPIC. tsc_khz 0 measures the frequency. Returns false if the LAPIC timer does not run. */
bool clock_init(u64 tsc_khz);
u64 clock_khz(void);
u64 cycles(u64 us);
u64 microseconds(u64 cycles);

#endif
