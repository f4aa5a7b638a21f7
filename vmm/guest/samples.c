#include "samples.h"
#include "clock.h"
#include "options.h"
#include "print.h"

#define MOST_SAMPLES 8192
#define IN_A_LINE 12

static u64 samples[MOST_SAMPLES];
static u32 count;

void sample(u64 cycles) {
  if (options.samples && count < MOST_SAMPLES) samples[count++] = cycles;
}

void samples_print(const char *what) {
  for (u32 i = 0; i < count; i++) {
    if (i % IN_A_LINE == 0) print("%s%s, ns each:", i ? "\n" : "", what);
    print(" %lu", microseconds(samples[i] * 1000));
  }
  if (count) print("\n");
  count = 0;
}
