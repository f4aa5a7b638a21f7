/** The kit's machines, of a make that needs no KVM. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { VmConfigInput } from '../config.js';
import type { Outcome } from '../outcome.js';
import type { RunReport } from '../protocol.js';
import type { VmObserver } from '../virtual-machine.js';
import { BootedMachine } from './booted-machine.js';

/** Says what its test tells it to, and saves a folder with nothing in it. */
class FakeMachine {
  static readonly all: FakeMachine[] = [];
  /** What a machine says by itself: one that boots, and one that goes on. */
  static greeting = 'booting\r\nlogin: ';
  readonly finished: Promise<RunReport>;
  #finish!: (report: RunReport) => void;
  isRunning = true;
  typed = '';

  private constructor(
    readonly from: string,
    readonly observer: VmObserver,
  ) {
    this.finished = new Promise((settle) => {
      this.#finish = settle;
    });
    FakeMachine.all.push(this);
    queueMicrotask(() => this.say(from === 'boot' ? FakeMachine.greeting : 'here'));
  }
  static start = (_config: VmConfigInput, observer: VmObserver) => new FakeMachine('boot', observer);
  static restore = (folder: string, changes: object, observer: VmObserver) =>
    new FakeMachine(`${folder} ${JSON.stringify(changes)}`, observer);

  say(text: string, port = 0): void {
    this.observer.serial?.(Buffer.from(text), port);
  }
  end(outcome: Outcome): void {
    this.#finish({ outcome } as RunReport);
  }
  async snapshot(folder: string) {
    mkdirSync(folder);
    writeFileSync(join(folder, 'state'), '');
    return { folder, stateBytes: 0, memoryBytes: 0, ms: 0 };
  }
  async typeSerial(bytes: Uint8Array): Promise<boolean> {
    this.typed += Buffer.from(bytes).toString();
    return true;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.isRunning = false;
  }
}

let folder: string;
beforeEach(() => {
  FakeMachine.all.length = 0;
  FakeMachine.greeting = 'booting\r\nlogin: ';
  folder = mkdtempSync(join(tmpdir(), 'kit-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const boot = (options = {}) =>
  BootedMachine.bootWith(FakeMachine, {
    config: { memory: '32M' },
    until: 'login:',
    timeoutMs: 50,
    ...options,
  });

test('each test has a machine of its own from the folder, and the one that booted has ended', async () => {
  const booted = await boot();
  {
    await using one = booted.start();
    await using other = booted.start({ deviceOptions: { 3: { net: 'responder' } } });
    await one.says('here');
    await other.says(/^here$/);
    one.vm.say(' and on COM2', 1);
    expect(one.console).toBe('here');
    await one.type('ls');
    expect(one.vm.typed).toBe('ls\n');
    expect(other.vm.from).toBe(`${booted.folder} {"deviceOptions":{"3":{"net":"responder"}}}`);
  }
  expect(FakeMachine.all.map(({ isRunning }) => isRunning)).toEqual([false, false, false]);
  booted[Symbol.dispose]();
  expect(existsSync(booted.folder)).toBe(false);
});

test('a cache boots each configuration once', async () => {
  const cache = join(folder, 'deep', 'cache');
  const folders = new Set<string>();
  for (const memory of ['32M', '32M', '64M', 33554432n]) {
    using booted = await boot({ cache, config: { memory } });
    folders.add(booted.folder);
  }
  expect(FakeMachine.all.filter(({ from }) => from === 'boot')).toHaveLength(3);
  expect(readdirSync(cache)).toHaveLength(3);
  expect(folders.size).toBe(3);
});

test('another kernel is another machine', async () => {
  const kernel = join(folder, 'vmlinuz');
  for (const bytes of [1, 1, 2]) {
    writeFileSync(kernel, Buffer.alloc(bytes));
    const { utimesSync } = await import('node:fs');
    utimesSync(kernel, 5, 5);
    using _booted = await boot({ cache: join(folder, 'cache'), config: { kernel } });
  }
  expect(FakeMachine.all).toHaveLength(2);
});

test('a guest that does not boot is an error with what it has said, and leaves nothing', async () => {
  const before = readdirSync(tmpdir()).filter((name) => name.startsWith('tsvisor-booted-'));
  FakeMachine.greeting = 'Kernel panic';
  await expect(boot()).rejects.toThrowError(
    /says on login:: ETIMEDOUT\n.*within 50 ms; it has said: Kernel panic/,
  );
  const ended = boot({ timeoutMs: 10_000 });
  queueMicrotask(() => FakeMachine.all.at(-1)?.end({ kind: 'powered-off' }));
  await expect(ended).rejects.toThrowError(/ECONNABORTED\n.*powered-off/);
  expect(FakeMachine.all.every(({ isRunning }) => !isRunning)).toBe(true);
  expect(readdirSync(tmpdir()).filter((name) => name.startsWith('tsvisor-booted-'))).toEqual(before);
});
