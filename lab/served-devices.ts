/** Serves devices to L1's QEMU while L1 runs, and does what commands in L1 ask of them. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseAddress } from '../vmm/device-address.js';
import { DeviceServer } from '../vmm/index.js';
import { slowdown } from './patience.js';
import { BOOT_FOLDER, clientProperties, type ServedDevice } from './served.js';

const READY_MS = 20_000;
/** How often requests are looked for: L1 waits for one with each fault that it gives. */
const LOOK_MS = 20;

interface Running {
  readonly server: DeviceServer;
  /** The client of each connection so far, and what was refused. */
  readonly said: string[];
}

/**
 * The servers of one L1, each in threads of this process, with a socket in the folder that L1 shares. A command in L1 writes a
 * file NUMBER.ask of `NAME VERB [TEXT]`, and gets NUMBER.answer: a status in its first line, and then a text.
 */
export class ServedDevices implements AsyncDisposable {
  readonly #folder: string;
  readonly #devices: readonly ServedDevice[];
  readonly #running = new Map<string, Running>();
  #isEnded = false;
  #looking: Promise<void> | undefined;

  private constructor(devices: readonly ServedDevice[], folder: string) {
    this.#devices = devices;
    this.#folder = join(folder, 'served');
  }

  /**
   * @param folder where the sockets are, and the folder `served` of requests
   * @throws Error if one is not ready in time
   */
  static async start(devices: readonly ServedDevice[], folder: string): Promise<ServedDevices> {
    const all = new ServedDevices(devices, folder);
    if (devices.length === 0) return all;
    mkdirSync(all.#folder);
    try {
      for (const { name } of devices) await all.#serve(name);
    } catch (error) {
      await all[Symbol.asyncDispose]();
      throw error;
    }
    for (const [name, properties] of clientProperties(devices, (each) => all.socketOf(each)))
      writeFileSync(join(all.#folder, `${name}.json`), JSON.stringify(properties));
    all.#looking = all.#look();
    return all;
  }

  socketOf(name: string): string {
    return join(this.#folder, `${name}.sock`);
  }

  async #serve(name: string): Promise<void> {
    const device = this.#devices.find((each) => each.name === name)?.device;
    if (device === undefined) throw new Error(`no device of that name is served: ${name}`);
    if (this.#running.has(name)) throw new Error(`${name} is served already`);
    const said: string[] = [];
    let isReady = false;
    const server = DeviceServer.start(
      {
        ...parseAddress(device.replaceAll(BOOT_FOLDER, dirname(this.#folder)), '--serve'),
        path: this.socketOf(name),
      },
      {
        ready: () => {
          isReady = true;
        },
        told: (text, level) => said.push(`${level}: ${text}`),
      },
    );
    this.#running.set(name, { server, said });
    let failure: Error | undefined;
    server.finished.catch((error: Error) => {
      failure = error;
    });
    for (const end = performance.now() + READY_MS * slowdown(); !isReady; await sleep(LOOK_MS)) {
      if (failure === undefined && performance.now() < end) continue;
      await this.#end(name);
      throw failure ?? new Error(`${device} is not served in time`);
    }
  }

  async #end(name: string): Promise<void> {
    const running = this.#get(name);
    this.#running.delete(name);
    await running.server[Symbol.asyncDispose]();
  }

  #get(name: string): Running {
    const running = this.#running.get(name);
    if (running === undefined) throw new Error(`${name} is not served now`);
    return running;
  }

  async #look(): Promise<void> {
    for (; !this.#isEnded; await sleep(LOOK_MS)) {
      for (const file of readdirSync(this.#folder).filter((each) => each.endsWith('.ask'))) {
        const path = join(this.#folder, file);
        const text = readFileSync(path, 'utf8');
        rmSync(path);
        await this.#answer(file.slice(0, -'.ask'.length), text.trim());
      }
    }
  }

  async #answer(number: string, text: string): Promise<void> {
    const [name = '', verb = '', ...words] = text.split(' ');
    let answer: string;
    try {
      answer = `0\n${await this.#obey(name, verb, words.join(' '))}`;
    } catch (error) {
      answer = `1\n${(error as Error).message}\n`;
    }
    const path = join(this.#folder, `${number}.answer`);
    writeFileSync(`${path}.part`, answer);
    renameSync(`${path}.part`, path);
  }

  /** Returns what the command prints. */
  async #obey(name: string, verb: string, text: string): Promise<string> {
    switch (verb) {
      case 'fault':
        await this.#get(name).server.inject(text);
        return '';
      case 'stop':
        await this.#end(name);
        return '';
      case 'start':
        await this.#serve(name);
        return '';
      case 'said':
        return this.#get(name)
          .said.map((line) => `${line}\n`)
          .join('');
      default:
        throw new Error(`${verb}: not one of fault, stop, start, said`);
    }
  }

  /** Ends all. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnded = true;
    await this.#looking;
    for (const name of [...this.#running.keys()]) await this.#end(name);
  }
}
