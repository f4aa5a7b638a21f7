#include "display.h"
#include "abi.h"
#include "clock.h"
#include "options.h"
#include "picture.h"
#include "print.h"
#include "trap.h"
#include "verdict.h"

#define VRAM_BAR 0
#define REGISTER_BAR 2
#define EDID 0x000
#define EDID_PREFERRED 54 /* the first detailed timing */
#define DISPI 0x500
enum { ID, XRES, YRES, BPP, ENABLE, BANK, VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET, MEMORY_64K };
#define ID_MASK 0xfff0
#define ID_BOCHS 0xb0c0
#define ENABLED 0x01
#define LINEAR 0x40

#define FRAME_US 33333
#define BAR_STEP 8 /* pixels that the bars move per frame */

static struct canvas canvas;
static u64 registers;

static u16 dispi_read(u32 index) { return read16(registers + DISPI + 2 * index); }
static void dispi_write(u32 index, u32 value) { write16(registers + DISPI + 2 * index, (u16)value); }

/* The screen's preferred mode, if the EDID has one. */
static void preferred_mode(u32 *width, u32 *height) {
  u64 timing = registers + EDID + EDID_PREFERRED;
  if (read32(registers + EDID) != 0xffffff00 || !read16(timing)) return;
  *width = read8(timing + 2) | (read8(timing + 4) & 0xf0u) << 4;
  *height = read8(timing + 5) | (read8(timing + 7) & 0xf0u) << 4;
}

static void set_mode(u32 width, u32 height) {
  const u32 mode[] = {[XRES] = width, [YRES] = height, [BPP] = 32, [VIRT_WIDTH] = width, [VIRT_HEIGHT] = height,
                      [Y_OFFSET] = 0};
  dispi_write(ENABLE, 0);
  for (u32 index = XRES; index <= Y_OFFSET; index++)
    if (index != ENABLE) dispi_write(index, mode[index]);
  dispi_write(ENABLE, ENABLED | LINEAR);
}

static void wait_until(u64 deadline) {
  while (rdtsc() < deadline) {
    u64 ticks = timer_interrupts;
    cli();
    if (timer_interrupts == ticks) sleep();
    sti();
  }
}

/* Moves the bars until they are back where the picture has them. */
static void animate(void) {
  u64 next = rdtsc();
  for (u32 frame = options.frames; frame-- > 0;) {
    next += cycles(FRAME_US);
    wait_until(next);
    picture_bars(&canvas, frame * BAR_STEP);
    picture_lines(&canvas, 0, (canvas.height - NOISE_HEIGHT) / 2);
  }
}

/* Draws each frame beside the one that is shown, then shows it. */
static void flip(void) {
  for (u32 frame = 1; frame <= options.flips; frame++) {
    u32 top = frame % 2 ? canvas.height : 0;
    picture_plain(&canvas, frame * 0x9e3779 & 0xffffff);
    picture_lines(&canvas, top, top + canvas.height);
    dispi_write(Y_OFFSET, top);
  }
  dispi_write(Y_OFFSET, 0);
}

void display_run(bdf function) {
  struct bar bar[6];
  outb(PORT_PHASE, PHASE_DISPLAY);
  if (!pci_place_bars(function, bar)) finish(VERDICT_DISPLAY, "the display's BARs do not fit the windows");
  pci_write16(function, PCI_COMMAND, pci_read16(function, PCI_COMMAND) | PCI_COMMAND_MEMORY);
  registers = bar[REGISTER_BAR].address;
  u16 id = dispi_read(ID);
  if ((id & ID_MASK) != ID_BOCHS) finish(VERDICT_DISPLAY, "no DISPI registers");
  u64 memory = dispi_read(MEMORY_64K) * 65536ul;
  u32 width = 640, height = 480;
  preferred_mode(&width, &height);
  if (options.xres) width = options.xres;
  if (options.yres) height = options.yres;
  if (width < NOISE_WIDTH || height < NOISE_HEIGHT || width > MAX_PIXELS || 4ul * width * height > memory ||
      memory > bar[VRAM_BAR].size)
    finish(VERDICT_DISPLAY, "the mode does not fit");
  if (options.flips && 8ul * width * height > memory) finish(VERDICT_DISPLAY, "two frames do not fit");
  canvas = (struct canvas){.at = bar[VRAM_BAR].address, .width = width, .height = height};
  set_mode(width, height);
  if (dispi_read(XRES) != width || dispi_read(YRES) != height || !(dispi_read(ENABLE) & ENABLED))
    finish(VERDICT_DISPLAY, "the mode is not taken");
  step("display: id %04x, %lu KiB, %u x %u pixels of 32 bits\n", id, memory >> 10, width, height);

  outb(PORT_PHASE, PHASE_DRAW);
  u64 start = rdtsc();
  bool held = picture_draw(&canvas);
  u64 us = microseconds(rdtsc() - start);
  if (options.frames) animate();
  if (options.flips) {
    flip();
    held &= picture_draw(&canvas);
  }
  outb(PORT_PHASE, PHASE_DRAWN);
  if (!held) finish(VERDICT_DISPLAY, "video memory does not hold what was drawn");
  print("display: drawn and read back in %lu us, noise 0x%08x\n", us, canvas.noise_sum);
}
