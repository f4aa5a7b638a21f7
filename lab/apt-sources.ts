/** One apt package source: a line of sources.list or a stanza of a .sources file. */
export interface AptSource {
  readonly types: readonly string[];
  readonly uris: readonly string[];
  readonly suites: readonly string[];
  readonly components: readonly string[];
  /** Keyring path, fingerprints or inline key, verbatim, with continuation lines. */
  readonly signedBy?: string;
}

const words = (text: string | undefined): string[] => text?.trim().split(/\s+/).filter(Boolean) ?? [];

function parseStanza(stanza: string): AptSource | undefined {
  const fields = new Map<string, string>();
  let name = '';
  for (const line of stanza.split('\n').filter((text) => !text.startsWith('#'))) {
    const field = /^([\w-]+):(.*)$/.exec(line);
    if (field) {
      name = field[1]!.toLowerCase();
      fields.set(name, field[2]!.trim());
    } else if (/^[ \t]/.test(line)) {
      fields.set(name, `${fields.get(name) ?? ''}\n${line}`);
    }
  }
  if (!fields.has('uris') || fields.get('enabled') === 'no') return undefined;
  const signedBy = fields.get('signed-by');
  return {
    types: words(fields.get('types')),
    uris: words(fields.get('uris')),
    suites: words(fields.get('suites')),
    components: words(fields.get('components')),
    ...(signedBy !== undefined && { signedBy }),
  };
}

function parseLine(line: string): AptSource | undefined {
  const match = /^\s*(deb|deb-src)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)/.exec(line);
  if (!match) return undefined;
  const signedBy = words(match[2])
    .find((option) => option.startsWith('signed-by='))
    ?.slice('signed-by='.length);
  return {
    types: [match[1]!],
    uris: [match[3]!],
    suites: [match[4]!],
    components: words(match[5]),
    ...(signedBy !== undefined && { signedBy }),
  };
}

/** Parses one file of /etc/apt: `.sources` contains stanzas (deb822), other files one source per line. */
export function parseAptSources(fileName: string, text: string): AptSource[] {
  const parts = fileName.endsWith('.sources')
    ? text.split(/\n[ \t]*\n/).map(parseStanza)
    : text.split('\n').map(parseLine);
  return parts.filter((source) => source !== undefined);
}

/**
 * The text of a .sources file for other suites of the archive that this machine already trusts for its own release,
 * with the same mirror and keyring.
 * @throws Error if no source offers `main` of the machine's release
 */
export function otherSuites(
  sources: readonly AptSource[],
  codename: string,
  suites: readonly string[],
): string {
  const own = sources.find(
    (source) =>
      source.types.includes('deb') && source.suites.includes(codename) && source.components.includes('main'),
  );
  if (own === undefined) {
    throw new Error(
      `no source under /etc/apt offers main of ${codename}\n` +
        '  hint: the lab takes its packages from the Debian mirror of this machine; add one to /etc/apt/sources.list.d',
    );
  }
  const lines = [
    'Types: deb',
    `URIs: ${own.uris.join(' ')}`,
    `Suites: ${suites.join(' ')}`,
    'Components: main',
  ];
  if (own.signedBy !== undefined) lines.push(`Signed-By: ${own.signedBy}`);
  return `${lines.join('\n')}\n`;
}
