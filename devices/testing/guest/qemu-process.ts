import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { TextTail } from './text-tail.js';

/** How QEMU ended. */
export interface QemuEnd {
  /** Exit status; null after a signal. */
  readonly status: number | null;
  /** The signal that ended it. */
  readonly signal: string | null;
}

/** QEMU, its console, and the line for commands. Disposing kills it, and waits until it is gone. */
export class QemuProcess implements AsyncDisposable {
  /** The first serial port's output. */
  readonly console = new TextTail();
  /** What QEMU itself says. */
  readonly messages = new TextTail();
  /** The second serial port's output. */
  readonly line = new TextTail();
  readonly ended: Promise<QemuEnd>;
  /** Set once it has ended. */
  end: QemuEnd | undefined;
  readonly #child: ChildProcess;
  readonly #server: Server;
  readonly #kill = (): void => void this.#child.kill('SIGKILL');
  readonly #waiting = new Set<() => void>();
  #socket: Socket | undefined;

  private constructor(command: readonly string[], server: Server) {
    this.#server = server;
    // The kernel kills it with this process, however that ends.
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...command], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    process.on('exit', this.#kill);
    const hear = (stream: NodeJS.ReadableStream | null, tail: TextTail) =>
      stream?.setEncoding('utf8').on('data', (piece: string) => this.#hear(tail, piece));
    hear(this.#child.stdout, this.console);
    hear(this.#child.stderr, this.messages);
    server.on('connection', (socket) => {
      this.#socket = socket.on('error', () => {});
      hear(socket, this.line);
    });
    this.ended = this.#end();
  }

  /**
   * Starts it, and returns at once.
   * @param linePath socket that QEMU connects its second serial port to
   */
  static async start(command: readonly string[], linePath: string): Promise<QemuProcess> {
    const server = createServer();
    server.listen(linePath);
    await once(server, 'listening');
    return new QemuProcess(command, server);
  }

  /** Writes to the second serial port. */
  type(text: string): void {
    this.#socket?.write(text);
  }

  /**
   * Waits for what a function finds in the outputs, which it is asked after each piece.
   * @returns what it found; `ended` if QEMU ends before, `late` after `timeoutMs`
   */
  async find<T>(look: () => T | undefined, timeoutMs: number): Promise<{ found: T } | 'ended' | 'late'> {
    let check: () => void = () => {};
    let late: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        check = () => {
          try {
            const found = look();
            if (found !== undefined) resolve({ found });
            else if (this.end !== undefined) resolve('ended');
          } catch (error) {
            reject(error as Error);
          }
        };
        late = setTimeout(() => resolve('late'), timeoutMs);
        this.#waiting.add(check);
        check();
      });
    } finally {
      clearTimeout(late);
      this.#waiting.delete(check);
    }
  }

  #hear(tail: TextTail, piece: string): void {
    tail.add(piece);
    this.#tellAll();
  }

  #tellAll(): void {
    for (const check of [...this.#waiting]) check();
  }

  async #end(): Promise<QemuEnd> {
    const [status, signal] = await new Promise<[number | null, string | null]>((resolve) => {
      // 'close' comes after the last output.
      this.#child.once('close', (code, by) => resolve([code, by]));
      this.#child.once('error', (error) => {
        this.messages.add(`setpriv: ${error.message}\n`);
        resolve([null, null]);
      });
    });
    process.off('exit', this.#kill);
    this.end = { status, signal };
    this.#tellAll();
    return this.end;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.ended;
    const socket = this.#socket;
    if (socket !== undefined && !socket.closed) {
      socket.destroy();
      await once(socket, 'close');
    }
    this.#server.close();
    await once(this.#server, 'close');
  }
}
