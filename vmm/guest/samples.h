#ifndef GUEST_SAMPLES_H
#define GUEST_SAMPLES_H
#include "cpu.h"
/* Times of single operations, with the word samples: kept until the report, as printing takes longer than most of them. */

/* Keeps one, if there is room. */
void sample(u64 cycles);
/* Prints those since the last call, and forgets them. */
void samples_print(const char *what);

#endif
