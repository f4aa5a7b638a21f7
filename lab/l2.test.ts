import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, test, vi } from 'vitest';
import { fileChecksum, fileContent } from './file-server.js';
import { payloadOf } from './images.js';
import { l2CommandLine, l2UserspaceSeconds, parseL2Results } from './l2.js';
import { asGuestBytes, parseL2Console, wrongConsole } from './l2-console.js';
import { DESKTOP_EVENTS, useDesk } from './l2-desktop.js';
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

  test('a console is shown if the pixels have the guest’s checksum, its size and the colours of a text', async () => {
    const [width, height, stride] = [10, 3, 48];
    const rgba = Uint8Array.from({ length: 4 * width * height }, (_, i) => (i % 4 === 3 ? 255 : i));
    const bytes = asGuestBytes({ width, height, rgba }, stride);
    expect([...bytes.subarray(stride, stride + 4)]).toEqual([42, 41, 40, 0]);
    const said = (pixels: Uint8Array) =>
      `L2-CONSOLE fb0 10,3 48 ${createHash('md5').update(pixels).digest('hex')}\r\n`;
    expect(parseL2Console(said(bytes))).toMatchObject({ width, height, stride });
    expect(await wrongConsole(said(bytes), async () => ({ width, height, rgba }))).toBeUndefined();
    const clock = vi.spyOn(performance, 'now').mockReturnValue(Number.MAX_VALUE);
    const look = (picture: object) => async () => ({ width, height, rgba, ...picture });
    const blank = new Uint8Array(rgba.length);
    for (const [output, picture, sentence] of [
      [said(blank), {}, /pixels of the checksum/],
      [said(bytes), { height: 2 }, /10 x 2 pixels, where the console has 10 x 3/],
      [said(new Uint8Array(stride * height)), { rgba: blank }, /1 colours, as if there were no text/],
    ] as const) {
      clock.mockReturnValueOnce(0);
      expect(await wrongConsole(output, look(picture))).toMatch(sentence);
    }
    clock.mockRestore();
    expect(() => parseL2Console('')).toThrow(/no console/);
  });

  test('a person’s keys and pointer are right if they arrive in order, and each wrong event counts', async () => {
    const person = (spoil: (line: string) => string) => {
      let output = '';
      const said = (device: string, ...lines: string[]) => {
        for (const line of [...lines, '0 0 0']) output += spoil(`L2-EVENT tsvisor-${device} ${line}\r\n`);
      };
      const keys = (device: string, codes: readonly number[]) => {
        for (const code of codes) said(device, `1 ${code} 1`);
        for (const code of codes.toReversed()) said(device, `1 ${code} 0`);
      };
      return useDesk(
        {
          press: async ({ codes }) => keys('keyboard', codes),
          point: async (x, y) =>
            said('tablet', `3 0 ${Math.round(32_767 * x)}`, `3 1 ${Math.round(32_767 * y)}`),
          click: async () => keys('tablet', [272]),
        },
        () => output,
      );
    };
    expect(await person((line) => line)).toBe(0);
    expect(DESKTOP_EVENTS).toBe(31);
    expect(await person((line) => line.replace(' 1 30 1', ' 1 31 1'))).toBe(1);
    expect(await person((line) => line.replace(/ 3 0 \d+/, ' 3 0 0'))).toBe(1);
    expect(await person((line) => (line.includes(' 1 272 0') ? `${line}${line}` : line))).toBe(2);
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
