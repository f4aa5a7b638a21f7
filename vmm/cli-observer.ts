/** What `tsvisor run` prints while its machine runs. */
import { COM_PORTS } from '../devices/serial.js';
import { paintFor } from './colours.js';
import type { VmConfig } from './config.js';
import { LineSplitter } from './line-splitter.js';
import { isPrinted, type LogLevel } from './log-level.js';
import { errorOutput, type Output } from './output.js';
import type { VmObserver } from './virtual-machine.js';

export interface RunPrinterOptions {
  readonly config: Pick<VmConfig, 'serial'> &
    Partial<Pick<VmConfig, 'kernel' | 'guest' | 'vcpus' | 'memory'>>;
  /** What the first line says instead of the configuration. */
  readonly title?: string | undefined;
  /** What its sandbox does, for the second line; undefined without one. */
  readonly sandbox: string | undefined;
  readonly out: Output;
  readonly level: LogLevel;
  /** The report on stdout, and nothing else. */
  readonly isJson: boolean;
  /** When the process started, on the monotonic clock. */
  readonly startMs: number;
}

const LINE_FEED = 0x0a;

/**
 * Prints steps as they happen, and prefixes the guest's lines. With a port at `stdio`, stdout is that port's, unchanged, and
 * all else goes to stderr.
 */
export class RunPrinter {
  readonly observer: VmObserver;
  readonly #options: RunPrinterOptions;
  /** The port at `stdio`; -1 without one. */
  readonly terminalPort: number;
  /** Where messages go. */
  readonly #messages: Output;
  #isHeaded = false;
  /** The guest has begun a line at the terminal. */
  #isMidLine = false;

  constructor(options: RunPrinterOptions) {
    this.#options = options;
    this.terminalPort = options.config.serial.indexOf('stdio');
    this.#messages = this.terminalPort < 0 && !options.isJson ? options.out : errorOutput();
    const paint = paintFor(this.#messages === options.out ? process.stdout : process.stderr);
    const { level, startMs } = options;
    // Quietly, stdout is the guest's alone, and traces that were asked for go elsewhere.
    const traces = level === 'error' ? errorOutput() : this.#messages;
    this.observer = {
      serial: this.#serial((text) => paint('dim', text)),
      step: (text, at, stepLevel) => {
        if (!this.prints(stepLevel)) return undefined;
        const time = `${(at - startMs).toFixed(1).padStart(8)} ms`;
        return this.print(`${paint('dim', time)}  ${stepLevel === 'warn' ? paint('warning', text) : text}`);
      },
      trace: (channel, text) => this.#line(traces, `trace ${channel} ${text}`),
    };
  }

  /** Whether messages of this level are printed. */
  prints(level: LogLevel): boolean {
    return isPrinted(level, this.#options.level);
  }

  /** Prints a message, below a first line that says what runs. */
  print(text: string): Promise<void> | undefined {
    this.#head();
    return this.#line(this.#messages, text);
  }

  /** The first line comes with what follows it: nothing precedes the sentence for a machine that does not start. */
  #head(): void {
    if (this.#isHeaded || !this.prints('info')) return;
    this.#isHeaded = true;
    const { config, title = titleOf(config), sandbox } = this.#options;
    this.#line(this.#messages, `tsvisor: ${title}`);
    if (sandbox !== undefined) this.#line(this.#messages, `tsvisor: ${sandbox}`);
  }

  #line(to: Output, text: string): Promise<void> | undefined {
    // The terminal is the guest's: our line starts below what it has begun.
    if (this.#isMidLine && process.stdout.isTTY) this.#options.out.write('\n');
    this.#isMidLine = false;
    return to.line(text);
  }

  #serial(dim: (text: string) => string): NonNullable<VmObserver['serial']> {
    const { out, isJson, config } = this.#options;
    const isRaw = !this.prints('warn');
    const isOne = config.serial.filter((end) => end === 'observer' || end === 'stdio').length < 2;
    const splitters = config.serial.map((_end, port) => {
      const name = isOne ? 'guest' : `guest ${COM_PORTS[port]?.name}`;
      return new LineSplitter((line) => this.print(`${dim(`${name} |`)} ${line}`));
    });
    return (bytes, port) => {
      if (port === this.terminalPort) {
        this.#isMidLine = bytes.at(-1) !== LINE_FEED;
        return out.write(bytes);
      }
      if (isJson) return undefined;
      return isRaw && this.terminalPort < 0 ? out.write(bytes) : splitters[port]?.push(bytes);
    };
  }
}

function titleOf({
  kernel,
  guest = 'built-in guest',
  vcpus = 1,
  memory = 0n,
}: RunPrinterOptions['config']): string {
  const cpus = vcpus === 1 ? '1 vCPU' : `${vcpus} vCPUs`;
  const size = memory < 1n << 20n ? `${memory >> 10n} KiB` : `${memory >> 20n} MiB`;
  return `${kernel ?? guest}, ${cpus}, ${size}`;
}
