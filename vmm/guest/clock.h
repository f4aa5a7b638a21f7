#ifndef GUEST_CLOCK_H
#define GUEST_CLOCK_H
#include "cpu.h"
/* TSC time, and the periodic tick that ends every sleep. */

/* Needs the LAPIC on. tsc_khz 0: measure. False if the LAPIC timer stands still. */
bool clock_init(u64 tsc_khz);
u64 clock_khz(void);
u64 cycles(u64 us);
u64 microseconds(u64 cycles);

#endif
