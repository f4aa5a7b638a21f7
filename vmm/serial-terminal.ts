/** A terminal, a pipe or a file as the input of a serial port. */
import { Scope } from '../sys/scope.js';
import { EscapeKeys, escapeHelp } from './escape-keys.js';
import type { VirtualMachine } from './virtual-machine.js';

/** Input that waits for the guest while more is read: a person who types at one that hangs still reaches Ctrl-A x. */
const MOST_WAITING_BYTES = 64 << 10;

/** What {@link SerialTerminal} uses of `process.stdin`. */
export type SerialTerminalInput = NodeJS.ReadableStream & {
  /** Whether it is a terminal. */
  readonly isTTY?: boolean;
  /** Turns line editing and echo of the terminal off. */
  setRawMode?(isRaw: boolean): unknown;
  /** Lets the process end while input is awaited. */
  unref?(): unknown;
};

/** What is typed at, and when. */
export interface SerialTerminalOptions {
  /** The serial port, 0 for COM1, which is the default. */
  readonly port?: number;
  /** `process.stdin` by default. */
  readonly input?: SerialTerminalInput;
  /** Prints a line of help for Ctrl-A h. */
  readonly print: (line: string) => void;
  /** What stopping the machine means, in that help. Default: `end the machine` */
  readonly ending?: string;
}

/**
 * Passes what is typed at a terminal to a machine's serial port. The terminal is in raw mode until this is disposed, and
 * Ctrl-A is its escape key: Ctrl-A x stops the machine, Ctrl-A p presses its power button, Ctrl-A h lists the keys, Ctrl-A
 * Ctrl-A sends one. A pipe or a file has no escape key, and its end ends only the input. Nothing is lost: reading pauses
 * while 64 KiB wait for the guest. Node restores a terminal's mode if the process exits without disposing this; only SIGKILL
 * leaves it raw.
 *
 * It does not print: VmObserver.serial gets the output. A serial line has no size; tell the guest with `stty rows 50 cols 132`.
 * Main thread only.
 */
export class SerialTerminal implements Disposable {
  readonly #vm: Pick<VirtualMachine, 'typeSerial'>;
  readonly #port: number;
  readonly #input: SerialTerminalInput;
  readonly #keys: EscapeKeys | undefined;
  readonly #scope: Scope;
  #waiting = 0;

  private constructor(
    vm: Pick<VirtualMachine, 'typeSerial' | 'stop' | 'pressPowerButton'>,
    { port = 0, input = process.stdin, print, ending = 'end the machine' }: SerialTerminalOptions,
  ) {
    using scope = new Scope();
    this.#vm = vm;
    this.#port = port;
    this.#input = input;
    if (input.isTTY === true) {
      this.#keys = new EscapeKeys({
        end: () => vm.stop('Ctrl-A x'),
        powerButton: () => vm.pressPowerButton(),
        help: () => escapeHelp(ending).forEach(print),
      });
      makeRaw(input, scope);
    }
    const read = (piece: Buffer | string) => this.#read(Buffer.from(piece));
    const failed = () => {}; // EIO of a terminal that has gone: SIGHUP says so, too
    input.on('data', read).on('error', failed);
    scope.defer(() => {
      input.off('data', read).pause();
      input.unref?.();
    });
    this.#scope = scope.move();
  }

  /** Starts to read. @throws RangeError if the port is not one whose end is `observer` or `stdio` */
  static open(
    vm: Pick<VirtualMachine, 'typeSerial' | 'stop' | 'pressPowerButton'>,
    options: SerialTerminalOptions,
  ): SerialTerminal {
    void vm.typeSerial(new Uint8Array(0), options.port);
    return new SerialTerminal(vm, options);
  }

  #read(typed: Uint8Array): void {
    const bytes = this.#keys === undefined ? typed : this.#keys.filter(typed);
    if (bytes.length === 0) return;
    this.#waiting += bytes.length;
    if (this.#waiting >= MOST_WAITING_BYTES) this.#input.pause();
    void this.#vm.typeSerial(bytes, this.#port).then((isTaken) => {
      this.#waiting -= bytes.length;
      if (isTaken && this.#waiting < MOST_WAITING_BYTES && this.#input.isPaused()) this.#input.resume();
    });
  }

  /** Restores the terminal, and stops reading. */
  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

/** A shell sets its own mode while the process is stopped: it is set again when that continues. */
function makeRaw(input: SerialTerminalInput, scope: Scope): void {
  const set = (isRaw: boolean) => void input.setRawMode?.(isRaw);
  const again = () => {
    set(false); // Node would take it for raw already
    set(true);
  };
  set(true);
  scope.defer(() => set(false));
  process.on('SIGCONT', again);
  scope.defer(() => process.off('SIGCONT', again));
}
