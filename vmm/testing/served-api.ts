/** For tests: the API of a fake machine at a socket. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ApiServer } from '../api/server.js';
import { FakeControlledMachine } from './controlled-machine.js';

export class ServedApi implements AsyncDisposable {
  /** Where the socket is. */
  readonly folder: string;
  readonly path: string;
  readonly machine: FakeControlledMachine;
  readonly server: ApiServer;

  private constructor(folder: string, path: string, machine: FakeControlledMachine, server: ApiServer) {
    this.folder = folder;
    this.path = path;
    this.machine = machine;
    this.server = server;
  }

  static async start(): Promise<ServedApi> {
    const folder = mkdtempSync(join(tmpdir(), 'tsvisor-api-'));
    const path = join(folder, 'sock');
    const machine = new FakeControlledMachine();
    return new ServedApi(folder, path, machine, await ApiServer.start(machine, path, '1.2.3'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true });
  }
}
