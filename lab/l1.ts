import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Boot } from './boot.js';
import { prepareDebianDisk } from './debian-disk.js';
import { addressVariable, pciAddresses } from './devices.js';
import { prepareDpdk } from './dpdk.js';
import { fileChecksum, startFileServer } from './file-server.js';
import { guestFiles, prepare } from './images.js';
import { hasLostTimer } from './lost-timer.js';
import { MailboxReader } from './mailbox.js';
import { Patience, type PatienceLimits, waitedForCpu } from './patience.js';
import type { L1Machine } from './qemu.js';
import { servedAddresses } from './served.js';
import { runSteps, say, seconds } from './step.js';
import { qemu11, userlandStep } from './userland.js';

export interface L1Options extends Partial<L1Machine> {
  /** Limits of a boot, which is then retried once. */
  readonly bootLimits?: PatienceLimits;
  /** Whether commands in it use the Debian disk. */
  readonly debian?: boolean;
  /** Whether commands in it use DPDK. */
  readonly dpdk?: boolean;
}

export interface RunOptions {
  /** Time limit, after which the command is killed with status 124, like timeout(1). */
  readonly timeoutMs?: number;
  /** Receives output as it arrives; the result contains it too. */
  readonly onOutput?: (bytes: Uint8Array) => void;
}

export interface RunResult {
  readonly status: number;
  /** Standard output and error, interleaved. */
  readonly output: string;
}

const fetchBytes = 4 << 20;
/** Several times what an idle machine takes. */
const BOOT_LIMITS: PatienceLimits = { silenceMs: 25_000, totalMs: 60_000 };
/** A refused DMA of a device, as Linux's VT-d driver reports it. */
const DMA_FAULT = /^.*DMAR: .*\bfault (?:addr|reason)\b.*$/gm;

function defaults(options: L1Options): L1Machine {
  return { devices: [], cpus: 2, memory: 2048, shell: false, iommu: true, served: [], ...options };
}

async function prepareFor({ served = [] }: L1Options): Promise<void> {
  await prepare();
  if (served.length > 0) await runSteps([userlandStep(qemu11)]);
}

async function connectMailbox(path: string, signal: AbortSignal): Promise<Socket> {
  for (;;) {
    const socket = createConnection(path);
    try {
      await once(socket, 'connect');
      return socket;
    } catch {
      await sleep(20, undefined, { signal });
    }
  }
}

/**
 * A running L1: Linux with an IOMMU, real VFIO drivers and nested KVM, with the project mounted at the same path as
 * here. Commands run one at a time, as root, in the project's folder.
 */
export class L1 implements AsyncDisposable {
  readonly #boot: Boot;
  readonly #server: Disposable;
  readonly #socket: Socket;
  /** Called with the status of the running command when it ends. */
  #onEnd: (status: number) => void = () => {};
  #onOutput: (bytes: Uint8Array) => void = () => {};
  #count = 0;
  #consoleSeen = 0;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(boot: Boot, server: Disposable, socket: Socket) {
    this.#boot = boot;
    this.#server = server;
    this.#socket = socket;
  }

  /**
   * Fetches and builds what is missing, then boots.
   * @throws Error with the end of the console if L1 does not boot in two attempts
   */
  static async boot(options: L1Options = {}): Promise<L1> {
    await prepareFor(options);
    if (options.debian) await prepareDebianDisk();
    if (options.dpdk) await prepareDpdk();
    try {
      return await L1.#tryBoot(options);
    } catch (error) {
      say(`${(error as Error).message}\nlab: trying again`);
      return L1.#tryBoot(options);
    }
  }

  static async #tryBoot(options: L1Options): Promise<L1> {
    const start = performance.now();
    const machine = defaults(options);
    const server = await startFileServer(guestFiles);
    const boot = await Boot.start(machine, environment(machine, server.url)).catch((error: unknown) => {
      server[Symbol.dispose]();
      throw error;
    });
    const abort = new AbortController();
    const { signal } = abort;
    const patience = new Patience(start, options.bootLimits ?? BOOT_LIMITS);
    const watch = setInterval(() => {
      const why = patience.check(performance.now(), boot.console().length, waitedForCpu(boot.qemu.pid!));
      if (why !== undefined) abort.abort(new Error(why));
    }, 500);
    try {
      const gone = once(boot.qemu, 'exit', { signal }).then(() => {
        throw new Error('QEMU ended');
      });
      const up = connectMailbox(join(boot.folder, 'mailbox'), signal).then(async (socket) => {
        const l1 = new L1(boot, server, socket);
        await l1.#ready(signal);
        return l1;
      });
      const l1 = await Promise.race([up, gone]);
      say(`L1 is up after ${seconds(start)}`);
      return l1;
    } catch (error) {
      const words = boot.lastWords();
      await boot[Symbol.asyncDispose]();
      server[Symbol.dispose]();
      const { message } = signal.aborted ? (signal.reason as Error) : (error as Error);
      throw new Error(`L1 did not boot: ${message}, after ${seconds(start)}\n${words}`);
    } finally {
      clearInterval(watch);
      abort.abort(); // what still waits for the mailbox or for QEMU's end
    }
  }

  async #ready(signal: AbortSignal): Promise<void> {
    const reader = new MailboxReader(
      (bytes) => this.#onOutput(bytes),
      (number, status) => {
        if (number === this.#count) this.#onEnd(status);
      },
    );
    this.#socket.on('data', (bytes) => reader.push(bytes));
    this.#socket.on('error', () => {}); // the exit of QEMU is watched instead
    await new Promise<void>((resolve, reject) => {
      this.#onEnd = () => resolve();
      signal.addEventListener('abort', () => reject(signal.reason));
    });
  }

  /**
   * Runs a bash command in L1; calls are queued. Output of a background process of an earlier command counts as that of
   * the running one.
   * @throws Error if L1 has ended or does not respond
   */
  run(command: string, options: RunOptions = {}): Promise<RunResult> {
    const attempt = this.#last.then(() => this.#attempt(command, options));
    this.#last = attempt.catch(() => {});
    return attempt;
  }

  async #attempt(command: string, { timeoutMs = 60_000, onOutput }: RunOptions): Promise<RunResult> {
    const number = ++this.#count;
    const parts: Uint8Array[] = [];
    writeFileSync(join(this.#boot.folder, `${number}.sh`), command);
    const abort = new AbortController();
    const ended = new Promise<number>((resolve) => {
      this.#onEnd = resolve;
      this.#onOutput = (bytes) => {
        parts.push(bytes);
        onOutput?.(bytes);
      };
    });
    const failed = (text: string) => (): never => {
      throw new Error(`${text} while it ran: ${command}\n${this.#boot.lastWords()}`);
    };
    this.#socket.write(`${number} ${Math.ceil(timeoutMs / 1000)}\n`);
    try {
      if (this.#boot.isGone) failed('L1 has ended')();
      const gone = once(this.#boot.qemu, 'exit', { signal: abort.signal }).then(failed('L1 ended'));
      // The agent kills a command at its time limit; if that is not reported either, L1 hangs.
      const silent = sleep(timeoutMs + 20_000, undefined, { signal: abort.signal }).then(failed('L1 hangs'));
      const stalled = this.#stall(abort.signal).then(failed('L1 stalls: a CPU has lost its timer'));
      for (const promise of [gone, silent, stalled]) promise.catch(() => {});
      const status = await Promise.race([ended, gone, silent, stalled]);
      return { status, output: Buffer.concat(parts).toString('utf8') };
    } finally {
      abort.abort();
      this.#onOutput = () => {};
    }
  }

  /** Resolves when L1's kernel has printed, since now, that a CPU has lost its timer. */
  async #stall(signal: AbortSignal): Promise<void> {
    const start = this.#boot.console().length;
    while (!hasLostTimer(this.#boot.console().slice(start))) await sleep(2000, undefined, { signal });
  }

  /**
   * The DMA faults that L1's kernel has printed since the last call: a device accessed memory that is not mapped for it. Without
   * those that a command meant to happen: it has written a part of each into /run/lab/expected-dma-faults.
   */
  takeDmaFaults(): string[] {
    const console = this.#boot.console();
    const faults = console.slice(this.#consoleSeen).match(DMA_FAULT) ?? [];
    this.#consoleSeen = console.length;
    const path = join(this.#boot.folder, 'expected-dma-faults');
    const expected = existsSync(path) ? readFileSync(path, 'utf8').split('\n').filter(Boolean) : [];
    return faults.filter((fault) => !expected.some((part) => fault.includes(part)));
  }

  /** Kills QEMU: L1 has no state worth a clean shutdown. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    await this.#boot[Symbol.asyncDispose]();
    this.#server[Symbol.dispose]();
  }
}

/** Variables for all commands in L1: addresses of devices, and a file that can be fetched over their NICs. */
function environment({ devices, served }: L1Machine, url: string): string[] {
  const addresses = [...pciAddresses(devices), ...servedAddresses(served, devices)].map(
    ([name, address]) => `${addressVariable(name)}=${address}`,
  );
  return [
    ...addresses,
    `LAB_URL=${url}`,
    `LAB_FILE=${url}/${fetchBytes}`,
    `LAB_MD5=${fileChecksum(fetchBytes)}`,
  ];
}

/** Boots L1 with a login shell on this terminal. Returns when the shell ends. */
export async function l1Shell(options: L1Options): Promise<void> {
  await prepareFor(options);
  using server = await startFileServer(guestFiles);
  const machine = { ...defaults(options), shell: true };
  await using boot = await Boot.start(machine, environment(machine, server.url));
  await once(boot.qemu, 'exit');
}
