import { expect, test } from 'vitest';
import { constant, filled, parseSession } from './session-text.js';

test('a document has blocks with the commands of each terminal, and what they print', () => {
  const text = `# Title
words
\`\`\`console
# tsvisor devices
ADDRESS  STATE
...
# tsvisor run --kernel a \\
    --initrd b
/ # ping x
1 packets
\`\`\`
## Meanwhile
\`\`\`console 2
# echo $?
0
\`\`\`
\`\`\`ts
# no command
\`\`\`
`;
  expect(parseSession(text)).toEqual([
    {
      heading: 'Title',
      terminal: 1,
      exchanges: [
        { where: 'host', command: 'tsvisor devices', answer: ['ADDRESS  STATE', '...'] },
        { where: 'host', command: 'tsvisor run --kernel a \\\n    --initrd b', answer: [] },
        { where: 'guest', command: 'ping x', answer: ['1 packets'] },
      ],
    },
    {
      heading: 'Meanwhile',
      terminal: 2,
      exchanges: [{ where: 'host', command: 'echo $?', answer: ['0'] }],
    },
  ]);
});

test('what no command has printed, and a block without an end, are mistakes of the document', () => {
  expect(() => parseSession('```console\nstray\n```')).toThrow("'stray' follows no command");
  expect(() => parseSession('# A\n```console\n# x')).toThrow("below 'A' has no end");
});

test.each([
  ['64 bytes from 10.0.2.2: seq=0 ttl=255 time=1.234 ms', '64 bytes from 10.0.2.2: seq=0 ttl=255 time=T ms'],
  ['uptime   4.1 s, 0 restarts', 'uptime  T s, 0 restarts'],
  ['process  23069, tsvisor 0.1.0', 'process  23069, tsvisor 0.1.0'],
  ['held by process 411 (node)', 'held by process N (node)'],
  ['0x0  64 MiB  0x7f455be00000  ram', '0x0  64 MiB  HVA  ram'],
  ['4 KiB, 254 MiB huge  ram', '4 KiB  ram'],
  ['a\u001b[6nb\r', 'ab'],
])('what varies in %j is masked', (line, masked) => {
  expect(constant(line)).toBe(masked);
});

test('counts are masked on request, and names, addresses and sizes in words are not', () => {
  expect(constant('00:03.0 eth0: 1,234 reads of BAR1 at 0x40, 10.0.2.2', true)).toBe(
    '00:03.0 eth0: N reads of BAR1 at 0x40, 10.0.2.2',
  );
});

test.each([
  [
    ['a', '...', 'd'],
    ['a', 'b', 'c', 'd'],
    ['a', 'b', 'c', 'd'],
  ],
  [['a', '...'], ['a'], ['a']],
  [
    ['a', '...', 'x'],
    ['a', 'b'],
    ['a', 'x'],
  ],
  [
    ['...', 'b', '...', 'b'],
    ['b', 'b'],
    ['b', 'b'],
  ],
])('%j stands for %j as %j', (expected, actual, result) => {
  expect(filled(expected, actual)).toEqual(result);
});
