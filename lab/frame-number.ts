/** The number of a picture, drawn into its first corner by lab/l2/frames.c: bits from the lowest, then their complements, as rows of 8 white or black blocks. */

/** Side of a block, pixels. */
export const BLOCK = 8;
/** Size of the number, pixels. */
export const NUMBER_WIDTH = 8 * BLOCK;
export const NUMBER_HEIGHT = 4 * BLOCK;

/**
 * Reads the number from pixels of 4 bytes; undefined if it is damaged or partly of another picture.
 * @param pixels from the first one of the picture on
 * @param stride bytes of a line
 */
export function numberIn(pixels: ArrayLike<number>, stride: number): number | undefined {
  // It also runs in the page, as text: it uses nothing from outside.
  const rows = [0, 0, 0, 0];
  for (let row = 0; row < 4; row++)
    for (let bit = 0; bit < 8; bit++) {
      // The centre of the block, and green, which is second in each order of the colours.
      const level = pixels[(row * 8 + 4) * stride + (bit * 8 + 4) * 4 + 1];
      if (level === undefined || (level > 63 && level < 192)) return undefined;
      if (level >= 192) rows[row] = (rows[row] as number) | (1 << bit);
    }
  const [low, high, notLow, notHigh] = rows as [number, number, number, number];
  return (low ^ notLow) === 255 && (high ^ notHigh) === 255 ? low | (high << 8) : undefined;
}
