import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { EventThread } from '../../../sys/event-task.js';
import { spinningText } from '../registers/register-watch.js';
import { cpio, S_IFREG } from './cpio.js';
import { GuestError, type GuestErrorInit, type GuestFailure } from './guest-error.js';
import { commandEntries } from './initramfs.js';
import { moduleEntries } from './kernel-modules.js';
import { findBusybox, findKernel, findQemu, kernelRelease, QEMU_HINT, readNamed } from './programs.js';
import { type QemuEnd, QemuProcess } from './qemu-process.js';
import { deviceName, type GuestDevice, ServedDevices, watchedObject } from './served-devices.js';

/** What a guest is made of. */
export interface GuestOptions {
  /** The devices, which the guest finds at 0000:00:10.0, 0000:00:11.0 and so on; 15 at most. */
  readonly devices?: readonly GuestDevice[];
  /** Kernel modules by name, put into the initramfs with what they depend on. They are not loaded: run modprobe. */
  readonly modules?: readonly string[];
  /** More files by path, as `etc/hosts`; executable, as the guest's programs need that. */
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
  /**
   * A program to be /init in place of the kit's, which takes commands: the guest is then whatever it makes of it, `run` is
   * refused, and busybox is not needed.
   */
  readonly init?: string | Uint8Array;
  /** Kernel parameters after the kit's, which put the console on ttyS0 and make an oops a panic. */
  readonly append?: string;
  /** In MiB; 256 if absent. */
  readonly memory?: number;
  /** vCPUs; 1 if absent. */
  readonly cpus?: number;
  /** QEMU's path, or its whole command (a loader before it, `-L` after it); TSVISOR_QEMU, or the one in PATH if absent. */
  readonly qemu?: string | readonly string[];
  /** Path of a bzImage or vmlinux; TSVISOR_KERNEL, or the newest of /boot if absent. */
  readonly kernel?: string;
  /** The kernel's /lib/modules/RELEASE; lib/modules/RELEASE beside the kernel's folder, or of this machine, if absent. */
  readonly modulesFolder?: string;
  /** Path of a static busybox; TSVISOR_BUSYBOX, or the one in PATH if absent. */
  readonly busybox?: string;
  /** Milliseconds until the guest must take commands; 60,000 if absent. */
  readonly timeoutMs?: number;
  /** For devices with a half in the event thread; its `poll`, if it has one, is called between messages. */
  readonly eventThread?: EventThread & { poll?(): void };
}

/** What a command in the guest did. */
export interface CommandResult {
  /** Its exit status. */
  readonly status: number;
  /** Its output and errors; of more than 1 MiB, the end. */
  readonly output: string;
}

const PARAMETERS =
  'console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off nowatchdog random.trust_cpu=on';
const MOST_DEVICES = 15;
const FIRST_SLOT = 0x10;
const OOPS = /^.*(BUG: |Oops: |general protection fault)/m;
const READY = '\u001eready\n';
const TAIL_LINES = 15;

/**
 * Boots Linux under QEMU, in software emulation, with devices of this process that are served by vfio-user: neither KVM
 * nor root is needed. Devices are called in this thread, between the test's own steps: what blocks it stops them.
 * @returns once the guest takes commands; with `init`, once QEMU runs
 * @throws SysError ENOENT for a program, kernel or module that is not there; ENOTSUP for a QEMU without vfio-user-pci; what
 *   a device's `create` throws. GuestError if the guest panics, ends, or is not ready in time
 */
export async function bootGuest(options: GuestOptions = {}): Promise<Guest> {
  const { devices = [], eventThread, timeoutMs = 60_000 } = options;
  if (devices.length > MOST_DEVICES)
    throw new RangeError(`${devices.length} devices: a guest has slots for ${MOST_DEVICES}`);
  const start = performance.now();
  const qemu = findQemu(options.qemu);
  const kernel = findKernel(options.kernel);
  const image = initramfs(options, kernel);
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-guest-'));
  let served: ServedDevices | undefined;
  let process: QemuProcess | undefined;
  const release = async () => {
    await process?.[Symbol.asyncDispose]();
    served?.[Symbol.dispose]();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const initrd = join(folder, 'initrd');
    writeFileSync(initrd, image);
    served = new ServedDevices(devices, folder, eventThread);
    const line = join(folder, 'line');
    const args = qemuArguments(options, { kernel, initrd, line, sockets: served.paths });
    process = await QemuProcess.start([...qemu, ...args], line);
    const guest = new Guest(process, devices, options.init === undefined, release);
    if (options.init !== undefined) return guest;
    await guest.ready(timeoutMs - (performance.now() - start));
    return guest;
  } catch (error) {
    const refusal = process === undefined ? undefined : refusalOf(qemu, process.messages.text);
    await release();
    throw refusal ?? error;
  }
}

function initramfs(options: GuestOptions, kernel: string): Buffer {
  const { modules = [], files = {}, init } = options;
  const busybox = init === undefined || modules.length > 0 ? findBusybox(options.busybox) : '';
  const more = Object.entries(files).map(([path, data]) => ({
    path: path.replace(/^\/+/, ''),
    mode: S_IFREG | 0o755,
    data: Buffer.from(data),
  }));
  if (modules.length > 0) more.push(...modulesOf(options, kernel, busybox));
  if (init === undefined) return cpio(commandEntries(readNamed(busybox, ''), more));
  return cpio([{ path: 'init', mode: S_IFREG | 0o755, data: Buffer.from(init) }, ...more]);
}

function modulesOf({ modules = [], modulesFolder }: GuestOptions, kernel: string, busybox: string) {
  const release = kernelRelease(kernel);
  if (release === undefined)
    throw new SysError({
      call: 'bootGuest',
      target: kernel,
      errno: errno.ENOEXEC,
      hint: 'it is neither a bzImage nor a vmlinux of Linux: which modules fit it is not known',
    });
  const beside = join(dirname(kernel), '../lib/modules', release);
  const folder = modulesFolder ?? (existsSync(beside) ? beside : join('/lib/modules', release));
  return moduleEntries(folder, release, modules, busybox).map(({ path, mode, data = Buffer.alloc(0) }) => ({
    path,
    mode,
    data: Buffer.from(data),
  }));
}

interface GuestFiles {
  readonly kernel: string;
  readonly initrd: string;
  readonly line: string;
  readonly sockets: readonly string[];
}

function qemuArguments(
  { memory = 256, cpus = 1, append = '' }: GuestOptions,
  { kernel, initrd, line, sockets }: GuestFiles,
): string[] {
  const functions = sockets.flatMap((path, i) => [
    '-device',
    JSON.stringify({
      driver: 'vfio-user-pci',
      bus: 'pcie.0',
      addr: (FIRST_SLOT + i).toString(16),
      socket: { path, type: 'unix' },
    }),
  ]);
  return [
    ...['-accel', 'tcg', '-cpu', 'max', '-smp', `${cpus}`, '-m', `${memory}`],
    // Without the machine's own SMBus and disks, which drivers under test would find, too.
    ...['-machine', 'q35,memory-backend=mem,smbus=off,sata=off'],
    ...['-object', `memory-backend-memfd,id=mem,size=${memory}M,share=on`],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
    ...['-chardev', `socket,id=line,path=${line}`, '-serial', 'chardev:line'],
    ...['-kernel', kernel, '-initrd', initrd, '-append', `${PARAMETERS} ${append}`.trim()],
    ...functions,
  ];
}

/** A QEMU that cannot be used, from what it says. */
function refusalOf(command: readonly string[], messages: string): SysError | undefined {
  if (!/vfio-user-pci' is not a valid device model|socket.*(not found|Invalid parameter)/.test(messages))
    return;
  const [program = '', ...args] = command;
  const { stdout } = spawnSync(program, [...args, '--version'], { encoding: 'utf8' });
  const version = stdout?.split('\n')[0] || 'this QEMU';
  return new SysError({
    call: 'bootGuest',
    target: program,
    errno: errno.ENOTSUP,
    hint: `${version} has no vfio-user-pci: ${QEMU_HINT}`,
  });
}

/** A running guest of {@link bootGuest}. Disposing ends it, and closes its devices. */
export class Guest implements AsyncDisposable {
  readonly #qemu: QemuProcess;
  readonly #devices: readonly GuestDevice[];
  readonly #takesCommands: boolean;
  readonly #release: () => Promise<void>;
  #last: Promise<unknown> = Promise.resolve();
  #commands = 0;
  /** Of a command whose time was over: it may end yet. */
  #late: string | undefined;

  /** @internal */
  constructor(
    qemu: QemuProcess,
    devices: readonly GuestDevice[],
    takesCommands: boolean,
    release: () => Promise<void>,
  ) {
    this.#qemu = qemu;
    this.#devices = devices;
    this.#takesCommands = takesCommands;
    this.#release = release;
  }

  /** The console so far; of more than 1 MiB, the end. */
  get console(): string {
    return this.#qemu.console.text.replaceAll('\r', '');
  }

  /** Resolves once QEMU has ended, as by the guest's poweroff. */
  get ended(): Promise<QemuEnd> {
    return this.#qemu.ended;
  }

  /**
   * Runs a command of the shell in the guest, as root, and waits for its end. Commands are run one after the other; what
   * runs on in the background should write elsewhere.
   * @param limits `timeoutMs` is 30,000 if absent; a command that takes longer runs on, and holds up the next one
   * @throws GuestError if the guest panics or ends, or the time is over. Error for a guest with an `init` of its own
   */
  run(command: string, { timeoutMs = 30_000 }: { readonly timeoutMs?: number } = {}): Promise<CommandResult> {
    const result = this.#last.then(() => this.#run(command, timeoutMs));
    this.#last = result.catch(() => {});
    return result;
  }

  /**
   * Waits until the console contains a text.
   * @throws GuestError if the guest ends before, or after `timeoutMs`, 30,000 if absent
   */
  async says(text: string, { timeoutMs = 30_000 }: { readonly timeoutMs?: number } = {}): Promise<void> {
    await this.#find(`the console's '${text}'`, timeoutMs, () => this.console.includes(text) || undefined);
  }

  /** @internal */
  async ready(timeoutMs: number): Promise<void> {
    await this.#find('boot', timeoutMs, () => this.#qemu.line.text.includes(READY) || undefined);
  }

  async #run(command: string, timeoutMs: number): Promise<CommandResult> {
    if (!this.#takesCommands)
      throw new Error(
        'this guest takes no commands: it has an init of its own; wait for its console by says()',
      );
    const word = `${++this.#commands}-${Math.random().toString(36).slice(2)}`;
    const { line } = this.#qemu;
    line.clear();
    this.#qemu.type(`${word} ${Buffer.from(command).toString('base64')}\n`);
    const late = this.#late;
    const mark = `\u001e${word} `;
    const look = (): CommandResult | undefined => {
      const { text } = line;
      const at = text.lastIndexOf(mark);
      const end = at < 0 ? -1 : text.indexOf('\n', at);
      if (end < 0) return undefined;
      const status = Number(text.slice(at + mark.length, end));
      // What comes before the end of a command whose time was over is that command's.
      const before = late === undefined ? -1 : text.lastIndexOf(`\u001e${late} `, at);
      return { status, output: text.slice(before < 0 ? 0 : text.indexOf('\n', before) + 1, at) };
    };
    this.#late = word;
    const result = await this.#find(`run '${command}'`, timeoutMs, look);
    this.#late = undefined;
    return result;
  }

  async #find<T>(what: string, timeoutMs: number, look: () => T | undefined): Promise<T> {
    const result = await this.#qemu.find(look, timeoutMs);
    if (typeof result === 'object') return result.found;
    const panic = /Kernel panic - not syncing: (.*)/.exec(this.console)?.[1];
    const reason: GuestFailure = result === 'late' ? 'timeout' : panic !== undefined ? 'panicked' : 'ended';
    const { end } = this.#qemu;
    const words: Record<GuestFailure, string> = {
      timeout: `not done after ${Math.round(timeoutMs)} ms`,
      panicked: `the guest panicked: ${panic}`,
      ended: `the guest ended, QEMU by ${end?.signal ?? `status ${end?.status}`}`,
    };
    throw new GuestError({ reason, what: `${what}: ${words[reason]}`, ...this.#evidence() });
  }

  #evidence(): Omit<GuestErrorInit, 'reason' | 'what'> {
    const { console, line, messages } = this.#qemu;
    const spins = this.#devices.flatMap((device) => {
      const spin = spinningText(watchedObject(device));
      return spin === undefined ? [] : [`${deviceName(device)}: ${spin}`];
    });
    // An oops names its function first, and ends with registers.
    const at = this.console.search(OOPS);
    return {
      oops: at < 0 ? [] : this.console.slice(at).split('\n', TAIL_LINES),
      console: console.lines(TAIL_LINES),
      output: line.lines(TAIL_LINES).filter((text) => !text.startsWith('\u001e')),
      qemu: messages.lines(TAIL_LINES),
      spins,
    };
  }

  /** Kills QEMU, closes the devices, and waits until both are gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#release();
  }
}
