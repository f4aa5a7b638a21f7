/** Colours of what is printed: only at a terminal, and not if NO_COLOR is set (no-color.org). */
const CODES = { error: 31, warning: 33, dim: 2 } as const;

export type Paint = (what: keyof typeof CODES, text: string) => string;

/** @param stream where the text is going to be printed */
export function paintFor({ isTTY }: { readonly isTTY?: boolean }): Paint {
  const { NO_COLOR = '', TERM } = process.env;
  if (isTTY !== true || NO_COLOR !== '' || TERM === 'dumb') return (_what, text) => text;
  return (what, text) => `\x1b[${CODES[what]}m${text}\x1b[0m`;
}
