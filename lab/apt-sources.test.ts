import { describe, expect, test } from 'vitest';
import { otherSuites, parseAptSources } from './apt-sources.js';

const stanzas = `Types: deb deb-src
# a comment between fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /keys/archive.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
`;

describe('parseAptSources', () => {
  test('parses stanzas, and keeps an inline key verbatim', () => {
    const [first, second] = parseAptSources('debian.sources', stanzas);
    expect(first).toEqual({
      types: ['deb', 'deb-src'],
      uris: ['http://mirror.example/debian'],
      suites: ['bookworm', 'bookworm-updates'],
      components: ['main', 'contrib'],
      signedBy: '/keys/archive.gpg',
    });
    expect(second?.signedBy).toBe('\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc');
  });

  test('ignores a disabled stanza', () => {
    expect(parseAptSources('x.sources', `Enabled: no\n${stanzas}`)).toHaveLength(1);
  });

  test('parses lines with and without options, and ignores comments', () => {
    const text = `# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror.example/debian bookworm main non-free # why
deb http://other.example/debian bookworm main`;
    expect(parseAptSources('sources.list', text)).toEqual([
      {
        types: ['deb'],
        uris: ['http://mirror.example/debian'],
        suites: ['bookworm'],
        components: ['main', 'non-free'],
        signedBy: '/keys/a.gpg',
      },
      { types: ['deb'], uris: ['http://other.example/debian'], suites: ['bookworm'], components: ['main'] },
    ]);
  });
});

describe('otherSuites', () => {
  const sources = parseAptSources('debian.sources', stanzas);

  test('uses the machine’s mirror for other suites, with the same keys', () => {
    expect(otherSuites(sources, 'bookworm', ['bookworm', 'bookworm-backports'])).toBe(
      'Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-backports\n' +
        'Components: main\nSigned-By: /keys/archive.gpg\n',
    );
  });

  test('rejects archives of other releases, and reports where to add one', () => {
    expect(() => otherSuites(sources, 'trixie', ['trixie'])).toThrow(/main of trixie[\s\S]*sources\.list\.d/);
  });

  test('its output parses as the same source', () => {
    const text = otherSuites(sources, 'bookworm', ['sid']);
    expect(parseAptSources('lab.sources', text)).toEqual([
      { ...sources[0], types: ['deb'], suites: ['sid'], components: ['main'] },
    ]);
  });
});
