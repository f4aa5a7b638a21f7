/** A 32-bit operand of an instruction: its bytes, the lowest first. */
export const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
