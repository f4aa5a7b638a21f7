const MOST_CHARACTERS = 1 << 20;

/** The end of a text that grows without bound, such as a guest's console. */
export class TextTail {
  #text = '';
  #dropped = 0;

  /** The last of it. */
  get text(): string {
    return this.#text;
  }

  /** How many characters before it are gone. */
  get dropped(): number {
    return this.#dropped;
  }

  add(piece: string): void {
    this.#text += piece;
    // Not at each piece: that would copy a MiB each time.
    if (this.#text.length > 2 * MOST_CHARACTERS) this.takeFirst(this.#text.length - MOST_CHARACTERS);
  }

  /** Drops the beginning. */
  takeFirst(characters: number): void {
    this.#text = this.#text.slice(characters);
    this.#dropped += characters;
  }

  clear(): void {
    this.#text = '';
    this.#dropped = 0;
  }

  /** The last lines, without those that are empty. */
  lines(count: number): string[] {
    return this.#text
      .replaceAll('\r', '')
      .split('\n')
      .filter((line) => line.trim() !== '')
      .slice(-count);
  }
}
