/** A session at the shell as a document has it: commands, and what they print. */

/** A ```console block. */
export interface SessionBlock {
  /** The heading above it. */
  readonly heading: string;
  /** Terminals are numbered from 1: ```console is the first, ```console 2 the second. */
  readonly terminal: number;
  readonly exchanges: readonly Exchange[];
}

/** A command and its answer. */
export interface Exchange {
  /** At the prompt of the host, `# `, or of the guest, `/ # `. */
  readonly where: 'host' | 'guest';
  /** As it is typed; lines that end with a backslash are joined by line breaks. */
  readonly command: string;
  /** Lines; {@link ANY_LINES} stands for any number of lines. */
  readonly answer: readonly string[];
}

export const ANY_LINES = '...';
export const GUEST_PROMPT = '/ # ';
const HOST_PROMPT = '# ';

/** Reads the blocks of a Markdown document, in order. What is printed before a block's first prompt belongs to the command before it. */
export function parseSession(markdown: string): SessionBlock[] {
  const blocks: SessionBlock[] = [];
  let heading = '';
  const lines = markdown.split('\n');
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] as string;
    heading = /^#+ (.*)/.exec(line)?.[1] ?? heading;
    const [, number] = /^```console(?: (\d+))?$/.exec(line) ?? [];
    if (!line.startsWith('```console')) continue;
    const end = lines.indexOf('```', at);
    if (end < 0) throw new Error(`the block below '${heading}' has no end`);
    blocks.push({ heading, terminal: Number(number ?? 1), exchanges: exchangesOf(lines.slice(at + 1, end)) });
    at = end;
  }
  return blocks;
}

function exchangesOf(lines: readonly string[]): Exchange[] {
  const exchanges: { where: 'host' | 'guest'; command: string; answer: string[] }[] = [];
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] as string;
    const prompt = [GUEST_PROMPT, HOST_PROMPT].find((each) => line.startsWith(each));
    if (prompt === undefined) {
      const last = exchanges.at(-1);
      if (last === undefined) throw new Error(`'${line}' follows no command`);
      last.answer.push(line);
      continue;
    }
    let command = line.slice(prompt.length);
    while (command.endsWith('\\') && at + 1 < lines.length) command += `\n${lines[++at]}`;
    exchanges.push({ where: prompt === GUEST_PROMPT ? 'guest' : 'host', command, answer: [] });
  }
  return exchanges;
}

/** What is another at each run: times, numbers of processes, addresses in them. */
const VARYING: readonly (readonly [RegExp, string])[] = [
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal's sequences begin with one
  [/\u001b\[[0-9;?]*[A-Za-z]|\r/g, ''],
  [/(?<![\d.:])\d+\.\d+(?=(?: ms| s)?(?![\d.]))/g, 'T'],
  [/\b0x7[0-9a-f]{8,}\b/g, 'HVA'],
  [/\b(process) \d+/g, '$1 N'],
  // How much the kernel has found in huge pages.
  [/, \d+ MiB huge\b/g, ''],
  // Columns are as wide as what varies in them.
  [/ {2,}/g, '  '],
  [/ +$/gm, ''],
];

/** The same for all runs. @param counts whether all other decimal numbers vary, too */
export function constant(line: string, counts = false): string {
  const text = VARYING.reduce((rest, [pattern, word]) => rest.replace(pattern, word), line);
  return counts ? text.replace(/(?<![\w.:])\d[\d,]*(?![\w.:])/g, 'N') : text;
}

/**
 * The expected lines, where each {@link ANY_LINES} is replaced by the lines for which it stands in the actual ones: equal to
 * these if they match.
 */
export function filled(expected: readonly string[], actual: readonly string[]): string[] {
  const result: string[] = [];
  for (const [i, line] of expected.entries()) {
    if (line !== ANY_LINES) {
      result.push(line);
      continue;
    }
    const next = expected[i + 1];
    const end = next === undefined ? actual.length : actual.indexOf(next, result.length);
    result.push(...actual.slice(result.length, Math.max(end, result.length)));
  }
  return result;
}
