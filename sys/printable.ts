/** Text of others on a terminal: what sysfs, another process or a peer chose must not move the cursor or hide what it says. */

const CONTROL = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

const code = (character: string): string => (character.codePointAt(0) as number).toString(16);

/** The text with `\x1b` in place of each control or formatting character, line breaks among them. */
export const printable = (text: string): string =>
  text.replace(CONTROL, (character) => `\\x${code(character).padStart(2, '0')}`);

/** A value as one line of JSON that is safe on a terminal, and means the same. */
export const printableJson = (value: unknown): string =>
  JSON.stringify(value).replace(CONTROL, (character) =>
    Array.from(
      { length: character.length },
      (_, i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, '0')}`,
    ).join(''),
  );
