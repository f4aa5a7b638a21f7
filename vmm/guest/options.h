#ifndef GUEST_OPTIONS_H
#define GUEST_OPTIONS_H
#include "cpu.h"
/* The command line; abi.h documents each word. */

struct window {
  u64 base, size; /* size 0: not given */
  u64 used;
};

enum crash { CRASH_NONE, CRASH_UD2, CRASH_TRIPLE, CRASH_INT3 };

struct options {
  u32 pings, mtu;
  u64 tsc_khz, ecam, tcp;
  struct window mmio, mmio64, io;
  u32 ip, gw;
  u32 udp_count, udp_bytes, udp_window;
  u32 doorbell;
  u32 xres, yres; /* 0: the screen's preferred mode */
  u32 frames, flips;
  u32 hotplug; /* 0: off */
  u32 intx_gsi; /* GSI_FROM_CONFIG: the interrupt line register */
  bool nodhcp, intx, quiet, spin, samples, halt_test, reset;
  bool trusts_rx_id; /* bug=rx-id */
  enum crash crash;
};
#define GSI_FROM_CONFIG 0xffffffffu
#define MAX_PINGS 1024
#define MAX_WINDOW 128
#define MAX_PIXELS 4095

extern struct options options;

/* Returns the first unknown word, or NULL. */
const char *options_parse(const char *text);

/* Progress output, suppressed by quiet. */
#define step(...) (options.quiet ? (void)0 : print(__VA_ARGS__))

#endif
