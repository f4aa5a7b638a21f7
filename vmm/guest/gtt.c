/* devices/vgpu-gtt/spec.ts has the registers. */
#include "gtt.h"
#include "abi.h"
#include "options.h"
#include "picture.h"
#include "print.h"
#include "verdict.h"

#define REGISTER_BAR 0
enum {
  ID = 0x00,
  STATUS = 0x04,
  CONTROL = 0x08,
  GTT_BASE_LO = 0x10,
  GTT_BASE_HI = 0x14,
  GTT_ENTRIES = 0x18,
  BASE = 0x20,
  STRIDE = 0x24,
  SIZE = 0x28,
  FORMAT = 0x2c,
  FLIP = 0x30,
  SHOWN = 0x34,
  BAD_ENTRIES = 0x40,
  UPDATES = 0x44,
};
#define ID_GTT1 0x31545447
#define READY 1u
#define NO_KVM 2u
#define CONTROL_GTT 1u
#define CONTROL_DISPLAY 2u
#define XRGB8888 0x34325258
#define VALID 1ul

#define PAGE 4096ul
#define SPARES 32u /* pages that hold nothing, and into which others move */
#define MOVES 8u   /* pages that move between two flips */

static struct canvas canvas;
static u64 registers, table;
static u32 pages; /* of a picture; there are two, one after the other in graphics memory */
static u64 spare[SPARES];
static u32 state, updates;

static u32 get(u32 at) { return read32(registers + at); }
static void set(u32 at, u32 value) { write32(registers + at, value); }

static u32 below(u32 end) {
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state % end;
}

static volatile u64 *entry(u32 index) { return (volatile u64 *)(table + 8 * index); }
static u64 page_of(u32 index) { return *entry(index) & ~(PAGE - 1); }

/* Costs an exit, as the card follows the table. */
static void update(u32 index, u64 value) {
  *entry(index) = value;
  updates++;
}

/* Moves a page of a picture to a spare one, and spoils where it was: a card that missed it would show that. */
static void move_page(u32 index) {
  u64 from = page_of(index), *to = &spare[below(SPARES)];
  if (below(4) == 0) update(index, 0); /* unmapped for a while */
  copy((void *)*to, (void *)from, PAGE);
  update(index, *to | VALID);
  for (u32 i = 0; i < PAGE; i += 4) write32(from + i, 0xdead0000 + i);
  *to = from;
}

static void show(u32 picture) {
  set(BASE, picture * pages * (u32)PAGE);
  set(FLIP, 1);
  if (get(SHOWN) != picture * pages * PAGE) finish(VERDICT_DISPLAY, "the flip is not taken");
}

/* The table, then its pages, then the spare ones. */
static void lay_out(void) {
  u32 entries = 2 * pages;
  u64 first = GTT_MEMORY + (8 * entries + PAGE - 1) / PAGE * PAGE;
  table = GTT_MEMORY;
  if (first + (entries + SPARES) * PAGE > GTT_MEMORY + GTT_MEMORY_BYTES)
    finish(VERDICT_DISPLAY, "the mode does not fit");
  clear((void *)table, first - table);
  for (u32 i = 0; i < entries; i++) *entry(i) = (first + i * PAGE) | VALID;
  for (u32 i = 0; i < SPARES; i++) spare[i] = first + (entries + i) * PAGE;
  canvas.at = first;
}

void gtt_run(bdf function) {
  struct bar bar[6];
  outb(PORT_PHASE, PHASE_DISPLAY);
  if (!pci_place_bars(function, bar)) finish(VERDICT_DISPLAY, "the display's BARs do not fit the windows");
  pci_write16(function, PCI_COMMAND,
              pci_read16(function, PCI_COMMAND) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  registers = bar[REGISTER_BAR].address;
  if (get(ID) != ID_GTT1) finish(VERDICT_DISPLAY, "no registers of a vgpu-gtt");
  if (get(STATUS) & NO_KVM) finish(VERDICT_DISPLAY, "the card has no VM, so it cannot read guest memory");
  canvas.width = options.xres ? options.xres : 640;
  canvas.height = options.yres ? options.yres : 480;
  pages = (u32)((4ul * canvas.width * canvas.height + PAGE - 1) / PAGE);
  state = canvas.width | canvas.height << 16;
  lay_out();

  outb(PORT_PHASE, PHASE_DRAW);
  bool held = picture_draw(&canvas);
  copy((void *)(canvas.at + pages * PAGE), (void *)canvas.at, pages * PAGE);
  set(GTT_BASE_LO, (u32)table);
  set(GTT_BASE_HI, (u32)(table >> 32));
  set(GTT_ENTRIES, 2 * pages);
  set(STRIDE, 4 * canvas.width);
  set(SIZE, canvas.width | canvas.height << 16);
  set(FORMAT, XRGB8888);
  set(CONTROL, CONTROL_GTT | CONTROL_DISPLAY);
  if (!(get(STATUS) & READY)) finish(VERDICT_DISPLAY, "the card does not follow the table");
  show(0);
  step("display: vgpu-gtt, %u entries at 0x%lx, %u x %u pixels of 32 bits\n", 2 * pages, table, canvas.width,
       canvas.height);
  u32 before = get(UPDATES), shown = get(FLIP);
  updates = 0;
  for (u32 flip = 1; flip <= options.flips; flip++) {
    u32 hidden = flip % 2;
    for (u32 i = 0; i < MOVES; i++) move_page(hidden * pages + below(pages));
    show(hidden);
  }
  outb(PORT_PHASE, PHASE_DRAWN);
  if (!held) finish(VERDICT_DISPLAY, "guest memory does not hold what was drawn");
  if (get(FLIP) - shown != options.flips) finish(VERDICT_DISPLAY, "flips are missing");
  if (get(UPDATES) - before != updates) finish(VERDICT_DISPLAY, "the card missed updates of its table");
  if (get(BAD_ENTRIES)) finish(VERDICT_DISPLAY, "the card takes guest memory for something else");
  print("display: %u flips, %u updates of the table followed, noise 0x%08x\n", options.flips, updates,
        canvas.noise_sum);
}
