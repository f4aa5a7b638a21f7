#include "options.h"
#include "abi.h"

struct options options = {
    .pings = 10,
    .mtu = 1500,
    .ip = 10 | 2 << 16 | 15u << 24,
    .gw = 10 | 2 << 16 | 2u << 24,
    .intx_gsi = GSI_FROM_CONFIG,
};

static bool ends(char c) { return c == 0 || c == ' ' || c == '\n' || c == '\t'; }

/* Moves *at past the name if it is there. A name that ends in '=' is followed by a value; other names must end the
 * word. */
static bool word(const char **at, const char *name) {
  const char *text = *at;
  char last = 0;
  for (; *name; name++, text++) {
    if (*text != *name) return false;
    last = *name;
  }
  if (last != '=' && !ends(*text)) return false;
  *at = text;
  return true;
}

static bool number(const char **at, u64 *value) {
  const char *text = *at;
  u32 base = 10;
  if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    base = 16;
    text += 2;
  }
  const char *first = text;
  u64 sum = 0;
  for (;; text++) {
    u32 digit = (u8)*text - '0';
    if (digit > 9) {
      digit = ((u8)*text | 0x20) - 'a' + 10;
      if (digit < 10) break;
    }
    if (digit >= base) break;
    if (sum > (~0ul - digit) / base) return false;
    sum = sum * base + digit;
  }
  if (text == first) return false;
  *at = text;
  *value = sum;
  return true;
}

static bool number_within(const char **at, u32 *value, u32 least, u32 most) {
  u64 n;
  if (!number(at, &n) || n < least || n > most) return false;
  *value = (u32)n;
  return true;
}

static bool address(const char **at, u32 *ip) {
  u32 sum = 0;
  for (u32 shift = 0; shift < 32; shift += 8) {
    u32 byte;
    if (shift && *(*at)++ != '.') return false;
    if (!number_within(at, &byte, 0, 255)) return false;
    sum |= byte << shift;
  }
  *ip = sum;
  return true;
}

static bool window(const char **at, struct window *window) {
  if (!number(at, &window->base) || *(*at)++ != ',' || !number(at, &window->size)) return false;
  return window->size && window->base + window->size > window->base;
}

static bool udp(const char **at) {
  return number_within(at, &options.udp_count, 1, 0x7fffffff) && *(*at)++ == ',' &&
         number_within(at, &options.udp_bytes, 8, 2000) && *(*at)++ == ',' &&
         number_within(at, &options.udp_window, 1, MAX_WINDOW);
}

static bool one(const char **at) {
  if (word(at, "pings=")) return number_within(at, &options.pings, 0, MAX_PINGS);
  if (word(at, "mtu=")) return number_within(at, &options.mtu, 576, 2000);
  if (word(at, "tsc_khz=")) return number(at, &options.tsc_khz) && options.tsc_khz;
  if (word(at, "mmio=")) return window(at, &options.mmio) && options.mmio.base + options.mmio.size <= GIB4;
  if (word(at, "mmio64=")) return window(at, &options.mmio64);
  if (word(at, "io=")) return window(at, &options.io) && options.io.base + options.io.size <= 0x10000;
  if (word(at, "ecam=")) return number(at, &options.ecam) && options.ecam <= GIB4 - 0x100000;
  if (word(at, "ip=")) return address(at, &options.ip);
  if (word(at, "gw=")) return address(at, &options.gw);
  if (word(at, "nodhcp")) return options.nodhcp = true;
  if (word(at, "irq=")) return (options.intx = word(at, "intx")) || word(at, "msix");
  if (word(at, "intx_gsi=")) return number_within(at, &options.intx_gsi, 0, 255);
  if (word(at, "quiet")) return options.quiet = true;
  if (word(at, "udp=")) return udp(at);
  if (word(at, "tcp=")) return number(at, &options.tcp) && options.tcp && options.tcp <= 0x7fffffff;
  if (word(at, "spin")) return options.spin = true;
  if (word(at, "samples")) return options.samples = true;
  if (word(at, "doorbell=")) return number_within(at, &options.doorbell, 1, 0x7fffffff);
  if (word(at, "xres=")) return number_within(at, &options.xres, NOISE_WIDTH, MAX_PIXELS);
  if (word(at, "yres=")) return number_within(at, &options.yres, NOISE_HEIGHT, MAX_PIXELS);
  if (word(at, "frames=")) return number_within(at, &options.frames, 1, 1000000);
  if (word(at, "flips=")) return number_within(at, &options.flips, 1, 1000000);
  if (word(at, "hotplug=")) return number_within(at, &options.hotplug, 1, 1000000);
  if (word(at, "reset")) return options.reset = true;
  if (word(at, "halt-test")) return options.halt_test = true;
  if (word(at, "bug=")) return options.trusts_rx_id = word(at, "rx-id");
  if (word(at, "crash=")) {
    options.crash = word(at, "ud2") ? CRASH_UD2 : word(at, "triple") ? CRASH_TRIPLE : word(at, "int3") ? CRASH_INT3 : 0;
    return options.crash != CRASH_NONE;
  }
  return false;
}

const char *options_parse(const char *text) {
  for (;;) {
    while (*text && ends(*text)) text++;
    if (!*text) break;
    const char *start = text;
    if (!one(&text) || !ends(*text)) return start;
  }
  return NULL;
}
