/**
 * Looks again and again, as a terminal's bytes take their way through the kernel's own threads.
 * @throws Error if it has not come true after many looks
 */
export async function until(isTrue: () => boolean): Promise<void> {
  for (let looks = 0; !isTrue(); looks++) {
    if (looks === 5000) throw new Error('it never came true');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
