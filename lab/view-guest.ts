/** For `compare view`: a Linux guest under QEMU 11 that draws numbered pictures (lab/l2/frames.c), and when it did. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpio, S_IFREG } from '../devices/testing/guest/cpio.js';
import { imageFolder } from './images.js';
import { labFolder } from './paths.js';
import { slowdown } from './patience.js';
import { spawnBound } from './process.js';
import { guestArguments, qemu11Command } from './qemu11.js';
import { qemu11, rootOf, runInside, userland } from './userland.js';

export const WIDTH = 1024;
export const HEIGHT = 768;
const BOOT_MS = 120_000;
const DRAW_MS = 120_000;

/** Milliseconds since 1970, with fractions: of this machine's clock, which pages read, too. */
export const clock = (): number => performance.timeOrigin + performance.now();

/** A picture that the guest has told its card of. */
export interface Drawn {
  readonly phase: number;
  readonly number: number;
  readonly at: number;
}

const INIT = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for bus in pci virtio; do modprobe -a $(cat /sys/bus/$bus/devices/*/modalias); done 2>/dev/null
left=300
until [ -e /dev/dri/card0 ] || [ $left = 0 ]; do left=$((left - 1)); sleep 0.1; done
stty -F /dev/console raw -echo
for console in /sys/class/vtconsole/*; do ! grep -q 'frame buffer' "$console/name" || echo 0 > "$console/bind"; done
exec frames
`;

/** Compiles the guest's program, and puts it behind the initramfs of L2: Linux unpacks one after the other. */
export async function buildInitramfs(path: string): Promise<void> {
  const text = (name: string) => readFileSync(join(labFolder, 'l2', name), 'utf8');
  const source = text('frames.c').replace('#include "drm.c"', () => text('drm.c'));
  const flags = '-Os -Wall -Werror -static -nostdlib -ffreestanding -fno-stack-protector';
  const program = await runInside(
    userland,
    `folder=$(mktemp -d) && trap 'rm -r $folder' EXIT && cd $folder && compiler=$(ls /usr/bin/gcc-[0-9]* | head -1) &&
    base64 -d > frames.c <<'END' && $compiler ${flags} -o frames frames.c && base64 frames
${Buffer.from(source).toString('base64')}
END`,
  );
  const files = cpio([
    { path: 'bin/frames', mode: S_IFREG | 0o755, data: Buffer.from(program, 'base64') },
    { path: 'frames-init', mode: S_IFREG | 0o755, data: Buffer.from(INIT) },
  ]);
  writeFileSync(path, Buffer.concat([readFileSync(join(imageFolder, 'l2.initrd')), files]));
}

/** A guest from its boot to the time when it waits for a viewer. Disposal ends QEMU. */
export class ViewGuest implements AsyncDisposable {
  readonly #qemu: ReturnType<typeof spawnBound>;
  readonly #ended: Promise<unknown>;
  #output = '';
  #seen = 0;
  readonly #drawn: Drawn[] = [];

  private constructor(initrd: string, devices: readonly string[]) {
    const line =
      'console=ttyS0 quiet panic=-1 nokaslr mitigations=off nowatchdog random.trust_cpu=on rdinit=/frames-init';
    // Its display cards are modules beside it.
    const modules = join(rootOf(qemu11), 'usr/lib/x86_64-linux-gnu/qemu');
    this.#qemu = spawnBound([...qemu11Command(), ...guestArguments(initrd, line), ...devices], {
      env: { ...process.env, QEMU_MODULE_DIR: modules },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.#ended = once(this.#qemu, 'exit');
    this.#qemu.stdout?.on('data', (bytes) => this.#take(String(bytes)));
    this.#qemu.stderr?.on('data', (bytes) => {
      this.#output += String(bytes);
    });
    this.#qemu.stdin?.on('error', () => {}); // it has ended: that is found where its output is awaited
  }

  /** @throws Error with its output if it does not get so far */
  static async boot(initrd: string, devices: readonly string[]): Promise<ViewGuest> {
    const guest = new ViewGuest(initrd, devices);
    try {
      await guest.#until('L2-WAITS', BOOT_MS);
      return guest;
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Lets it draw all its pictures. @throws Error with its output if it does not */
  async draw(): Promise<readonly Drawn[]> {
    this.#qemu.stdin?.write('\n');
    await this.#until('L2-DRAWN', DRAW_MS);
    await sleep(1000); // the viewer sees the last of them
    return this.#drawn;
  }

  #take(text: string): void {
    const at = clock();
    this.#output += text;
    // Only whole lines.
    const end = this.#output.lastIndexOf('\n') + 1;
    const lines = this.#output.slice(this.#seen, end).matchAll(/^L2-FRAME (\d) (\d+)\r?$/gm);
    for (const [, phase, number] of lines)
      this.#drawn.push({ phase: Number(phase), number: Number(number), at });
    this.#seen = Math.max(this.#seen, end);
  }

  async #until(word: string, ms: number): Promise<void> {
    const deadline = performance.now() + ms * slowdown();
    for (; !this.#output.includes(word); await sleep(20)) {
      const isLate = performance.now() > deadline;
      if (isLate || this.#qemu.exitCode !== null || this.#output.includes('L2-DRM'))
        throw new Error(`the guest did not print ${word}:\n${this.#output.slice(-3000)}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#qemu.kill('SIGKILL');
    await this.#ended;
  }
}
