#include "picture.h"
#include "abi.h"
#include "options.h"

static u32 line[MAX_PIXELS];

void picture_bars(const struct canvas *on, u32 shift) {
  static const u32 colours[8] = {0xffffff, 0xffff00, 0x00ffff, 0x00ff00, 0xff00ff, 0xff0000, 0x0000ff, 0x000000};
  for (u32 x = 0, from = shift % on->width; x < on->width; x++) {
    line[x] = colours[from * 8 / on->width];
    if (++from == on->width) from = 0;
  }
}

void picture_plain(const struct canvas *on, u32 colour) {
  for (u32 x = 0; x < on->width; x++) line[x] = colour;
}

static void gradient(const struct canvas *on, u32 channel) {
  for (u32 x = 0; x < on->width; x++) line[x] = x * 255 / (on->width - 1) << (16 - 8 * channel);
}

static u64 place(const struct canvas *on, u32 x, u32 y) { return on->at + 4 * ((u64)y * on->width + x); }

void picture_lines(const struct canvas *on, u32 from, u32 to) {
  for (u32 y = from; y < to; y++) copy((void *)place(on, 0, y), line, 4 * on->width);
}

static bool lines_hold(const struct canvas *on, u32 from, u32 to) {
  for (u32 y = from; y < to; y++)
    if (!equal((void *)place(on, 0, y), line, 4 * on->width)) return false;
  return true;
}

/* Noise in the middle: xorshift, seeded with the size. Drawn, or compared and summed up. */
static bool noise(struct canvas *on, bool is_drawing) {
  u32 state = on->width | on->height << 16, left = (on->width - NOISE_WIDTH) / 2, top = (on->height - NOISE_HEIGHT) / 2;
  on->noise_sum = 0;
  for (u32 y = 0; y < NOISE_HEIGHT; y++)
    for (u32 x = 0; x < NOISE_WIDTH; x++) {
      state ^= state << 13;
      state ^= state >> 17;
      state ^= state << 5;
      u32 pixel = state & 0xffffff;
      u64 at = place(on, left + x, top + y);
      if (is_drawing) write32(at, pixel);
      else if (read32(at) != pixel) return false;
      on->noise_sum += pixel;
    }
  return true;
}

bool picture_draw(struct canvas *on) {
  u32 middle = on->height / 2, below = on->height - middle;
  picture_bars(on, 0);
  picture_lines(on, 0, middle);
  bool held = lines_hold(on, 0, middle);
  for (u32 channel = 0; channel < 3; channel++) {
    u32 from = middle + below * channel / 3, to = middle + below * (channel + 1) / 3;
    gradient(on, channel);
    picture_lines(on, from, to);
    held &= lines_hold(on, from, to);
  }
  noise(on, true);
  return noise(on, false) && held;
}
