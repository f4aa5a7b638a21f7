#ifndef GUEST_PICTURE_H
#define GUEST_PICTURE_H
#include "cpu.h"
/* The picture that abi.h describes, drawn into memory whose lines follow each other without a gap, 4 bytes for each pixel. */

struct canvas {
  u64 at;
  u32 width, height;
  u32 noise_sum; /* of the noise that was drawn last */
};

void picture_bars(const struct canvas *on, u32 shift);  /* makes a line of the bars, moved by so many pixels */
void picture_plain(const struct canvas *on, u32 colour); /* makes a line of one colour */
void picture_lines(const struct canvas *on, u32 from, u32 to); /* draws the line that was made, in each line from..to */
bool picture_draw(struct canvas *on); /* draws all of it, and reads it back: false if the memory does not hold it */

#endif
