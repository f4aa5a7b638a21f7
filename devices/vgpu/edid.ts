/** The EDID of the card's screen: VESA E-EDID 1.4, one block. */

const BLOCK_BYTES = 128;
const HEADER = [0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00] as const;
/** Three letters of five bits each: "TSV". */
const MANUFACTURER = [...'TSV'].reduce((word, letter) => (word << 5) | (letter.charCodeAt(0) - 64), 0);
const YEAR = 2026;
/** Digital input, 8 bits per color, DisplayPort. */
const VIDEO_INPUT = 0xa5;
const GAMMA_2_2 = 120;
/** sRGB primaries; the first timing is the preferred one, with the native pixel format and refresh rate. */
const FEATURES = 0x06;
const SRGB = [0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54] as const;
/** Fallback modes: byte of the block, bit, and size, all at 60 Hz. */
const ESTABLISHED = [
  { at: 35, bit: 0x20, xres: 640, yres: 480 },
  { at: 35, bit: 0x01, xres: 800, yres: 600 },
  { at: 36, bit: 0x08, xres: 1024, yres: 768 },
] as const;
const NO_STANDARD_TIMING = 0x01;
const DESCRIPTORS_AT = 54;
const DESCRIPTOR_BYTES = 18;
const NAME = 0xfc;
const DUMMY = 0x10;
const RANGE_LIMITS = 0xfd;
const REFRESH_HZ = 60;
const MOST_PIXELS = 0xfff;
/** Unit of a timing's pixel clock, and the most of them. */
const CLOCK_HZ = 10_000;
const MOST_CLOCK = 0xffff;
/** 96 dots per inch. */
const MM_PER_PIXEL = 25.4 / 96;
const SEPARATE_SYNC_POSITIVE = 0x1e;

/**
 * The EDID of a screen with a preferred mode, at 60 Hz or at the most that a pixel clock of 16 bits in units of 10 kHz can
 * tell.
 * @param xres pixels
 * @throws RangeError unless both are 1 to 4095, what 12 bits hold
 */
export function createEdid(xres: number, yres: number): Uint8Array {
  for (const pixels of [xres, yres])
    if (!Number.isInteger(pixels) || pixels < 1 || pixels > MOST_PIXELS)
      throw new RangeError(`an EDID cannot tell ${xres} x ${yres} pixels`);
  const timing = timingOf(xres, yres);
  const block = new Uint8Array(BLOCK_BYTES);
  const view = new DataView(block.buffer);
  block.set(HEADER);
  view.setUint16(8, MANUFACTURER, false);
  view.setUint16(10, 1, true); // product
  block[17] = YEAR - 1990;
  block[18] = 1;
  block[19] = 4;
  block[20] = VIDEO_INPUT;
  block[21] = Math.round((xres * MM_PER_PIXEL) / 10);
  block[22] = Math.round((yres * MM_PER_PIXEL) / 10);
  block[23] = GAMMA_2_2;
  block[24] = FEATURES;
  block.set(SRGB, 25);
  for (const mode of ESTABLISHED)
    if (mode.xres <= xres && mode.yres <= yres) block[mode.at] = (block[mode.at] as number) | mode.bit;
  block.fill(NO_STANDARD_TIMING, 38, DESCRIPTORS_AT);
  block.set(detailedTiming(timing), DESCRIPTORS_AT);
  block.set(textDescriptor(NAME, 'tsvisor vGPU'), DESCRIPTORS_AT + DESCRIPTOR_BYTES);
  block.set(rangeLimits(timing), DESCRIPTORS_AT + 2 * DESCRIPTOR_BYTES);
  block.set([0, 0, 0, DUMMY], DESCRIPTORS_AT + 3 * DESCRIPTOR_BYTES);
  block[127] = -block.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return block;
}

/** The first detailed timing's size, pixels; undefined if there is none. */
export function preferredMode(
  edid: Uint8Array,
): { readonly xres: number; readonly yres: number } | undefined {
  const at = (offset: number): number => edid[DESCRIPTORS_AT + offset] ?? 0;
  const mode = { xres: at(2) | ((at(4) >> 4) << 8), yres: at(5) | ((at(7) >> 4) << 8) };
  const isTiming = (at(0) | at(1)) !== 0 && mode.xres > 0 && mode.yres > 0;
  return isTiming ? mode : undefined;
}

function textDescriptor(tag: number, text: string): number[] {
  const bytes = [...Buffer.from(text.padEnd(13, ' '))];
  if (text.length < 13) bytes[text.length] = 0x0a;
  return [0, 0, 0, tag, 0, ...bytes];
}

interface Timing {
  readonly xres: number;
  readonly yres: number;
  readonly hblank: number;
  readonly vblank: number;
  readonly refreshHz: number;
}

/** Blanking close to CVT reduced blanking, which a digital screen allows. */
function timingOf(xres: number, yres: number): Timing {
  const hblank = 160;
  const vblank = Math.max(23, Math.ceil(yres * 0.03));
  const mostHz = Math.floor((MOST_CLOCK * CLOCK_HZ) / ((xres + hblank) * (yres + vblank)));
  return { xres, yres, hblank, vblank, refreshHz: Math.min(REFRESH_HZ, mostHz) };
}

/** The screen's own mode lies within them. */
function rangeLimits({ yres, vblank, refreshHz }: Timing): number[] {
  const lineKhz = Math.ceil(((yres + vblank) * refreshHz) / 1000);
  const [leastHz, mostKhz] = [Math.min(50, refreshHz - 1), Math.max(160, lineKhz)];
  return [0, 0, 0, RANGE_LIMITS, 0, leastHz, 75, 30, mostKhz, 150, 1, 0x0a, ...Array(6).fill(0x20)];
}

function detailedTiming({ xres, yres, hblank, vblank, refreshHz }: Timing): number[] {
  const [hfront, hsync, vfront, vsync] = [48, 32, 3, 6];
  const clock = Math.round(((xres + hblank) * (yres + vblank) * refreshHz) / CLOCK_HZ);
  const [width, height] = [Math.round(xres * MM_PER_PIXEL), Math.round(yres * MM_PER_PIXEL)];
  const high = (a: number, b: number) => ((a >> 8) << 4) | (b >> 8);
  return [
    clock & 0xff,
    clock >> 8,
    xres & 0xff,
    hblank & 0xff,
    high(xres, hblank),
    yres & 0xff,
    vblank & 0xff,
    high(yres, vblank),
    hfront & 0xff,
    hsync & 0xff,
    ((vfront & 0xf) << 4) | (vsync & 0xf),
    ((hfront >> 8) << 6) | ((hsync >> 8) << 4) | ((vfront >> 4) << 2) | (vsync >> 4),
    width & 0xff,
    height & 0xff,
    high(width, height),
    0,
    0,
    SEPARATE_SYNC_POSITIVE,
  ];
}
