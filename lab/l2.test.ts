import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { fileChecksum, fileContent } from './file-server.js';
import { payloadOf } from './images.js';
import { l2CommandLine, l2UserspaceSeconds, parseL2Results } from './l2.js';
import { expectedEvents, parseL2Events, typeAll } from './l2-input.js';
import { PICTURE_TEXT, parseL2Picture } from './l2-picture.js';
import { expectedScreen, parseL2Screen, wrongOnScreen } from './l2-screens.js';
import { labFolder } from './paths.js';

describe('L2', () => {
  test('gets its checks, and the file to fetch with its checksum', () => {
    const line = l2CommandLine({
      checks: ['dhcp', 'fetch'],
      url: 'http://10.0.2.2:8',
      fetchBytes: 100,
      parameters: ['pci=nomsi'],
    });
    expect(line.split(' ')).toEqual(
      expect.arrayContaining([
        'console=ttyS0',
        'lab.checks=dhcp,fetch',
        'lab.url=http://10.0.2.2:8/100',
        `lab.md5=${fileChecksum(100)}`,
        'pci=nomsi',
      ]),
    );
    expect(l2CommandLine({ checks: ['disk'] })).not.toContain('lab.url');
  });

  test('a longer file starts with the bytes of a shorter one', () => {
    expect(fileContent(100).subarray(0, 33)).toEqual(fileContent(33));
    expect(fileContent(4096).equals(Buffer.alloc(4096))).toBe(false);
  });

  test('its results are parsed from a console with carriage returns and other lines', () => {
    const output =
      'L2-USERSPACE 3.17\r\nL2-RESULT dhcp.eth0 ok\r\nnoise L2-RESULT x ok\r\nL2-RESULT disk failed\r\n';
    expect(Object.fromEntries(parseL2Results(output))).toEqual({ 'dhcp.eth0': true, disk: false });
    expect(l2UserspaceSeconds(output)).toBe(3.17);
    expect(l2UserspaceSeconds('Kernel panic')).toBeUndefined();
  });

  test('a result that failed once remains failed', () => {
    expect(parseL2Results('L2-RESULT a failed\nL2-RESULT a ok\n').get('a')).toBe(false);
  });

  test('its picture’s size is parsed, and its text is the one that L2 writes', () => {
    const output = 'L2-RESULT picture.fb0 ok\r\nL2-PICTURE fb0 1024,768 4096\r\n';
    expect(parseL2Picture(output)).toEqual({ width: 1024, height: 768, stride: 4096 });
    expect(() => parseL2Picture('L2-END')).toThrow(/no picture mode/);
    expect(readFileSync(`${labFolder}/l2/init.sh`, 'utf8')).toContain(`yes '${PICTURE_TEXT}' |`);
  });

  test('what it prints of the events that arrive is parsed', () => {
    const printed = expectedEvents.map((line) => `L2-EVENT ${line}\r\n`).join('noise\n');
    expect(parseL2Events(printed)).toEqual(expectedEvents);
    expect(parseL2Events('L2-EVENT tsvisor-mouse 2 0 -5\n')).toEqual(['tsvisor-mouse 2 0 -5']);
  });

  test('what is typed is right only if all of it arrives in order', async () => {
    const guest = (change: (lines: string[]) => string[]) => {
      const lines: string[] = [];
      return typeAll(
        () =>
          change([...lines])
            .map((line) => `L2-EVENT ${line}\n`)
            .join(''),
        async () => void lines.push(...expectedEvents.slice(lines.length)),
      );
    };
    expect(await guest((lines) => lines)).toBe(0);
    expect(await guest((lines) => [...lines].reverse())).toBeGreaterThan(0);
    expect(await guest((lines) => [...lines, 'tsvisor-mouse 2 0 1'])).toBe(1);
  });

  test('the mode of a screen is the latest, and its picture has the cursor on it', async () => {
    const output = 'L2-SCREEN 0 800 600\r\nL2-SCREEN 1 640 480\r\nL2-SCREEN 0 1024 768\r\n';
    expect([0, 1, 2].map((head) => parseL2Screen(output, head))).toEqual([
      { width: 1024, height: 768 },
      { width: 640, height: 480 },
      undefined,
    ]);
    const rgba = expectedScreen(1, 100, 90);
    const at = (x: number, y: number) => [...rgba.subarray(4 * (100 * y + x), 4 * (100 * y + x) + 4)];
    expect(at(0, 0)).toEqual([0x55, 0xaa, 0x33, 255]);
    expect(at(11, 20)).not.toEqual(at(10, 20));
    const look = async () => ({ width: 100, height: 90, rgba });
    expect(await wrongOnScreen(1, 100, 90, look)).toBe(0);
  });

  test('the payload of a bzImage starts after its setup sectors and excludes the size at its end', () => {
    const image = Buffer.alloc(4096);
    image.writeUInt8(2, 0x1f1);
    image.writeUInt32LE(100, 0x248);
    image.writeUInt32LE(11, 0x24c);
    image.write('payload', 3 * 512 + 100);
    expect(Buffer.from(payloadOf(image)).toString()).toBe('payload');
  });
});
