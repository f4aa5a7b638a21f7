/** For lab tests: records calls of functions in L1's kernel, with kprobes. */
import { readFileSync, writeFileSync } from 'node:fs';

/** A function, and the arguments to record, by register: `{ kvm: 'si' }` is the second one. */
export interface Probe {
  readonly symbol: string;
  readonly arguments: Readonly<Record<string, 'di' | 'si' | 'dx' | 'cx'>>;
}

/** A recorded call. */
export interface KernelCall {
  readonly symbol: string;
  /** Hexadecimal numbers: kernel pointers. */
  readonly arguments: Readonly<Record<string, string>>;
}

const TRACING = '/sys/kernel/tracing';
const GROUP = 'tsvisor';

/** Records calls from construction until disposal. One at a time. */
export class KernelTrace implements Disposable {
  readonly #names: readonly string[];

  /** @throws Error if the kernel has no such function, or cannot trace it */
  constructor(probes: readonly Probe[]) {
    this.#names = probes.map(({ symbol }) => symbol);
    writeFileSync(`${TRACING}/tracing_on`, '1');
    for (const probe of probes) {
      const values = Object.entries(probe.arguments).map(([name, register]) => `${name}=%${register}:x64`);
      const line = `p:${GROUP}/${probe.symbol} ${probe.symbol} ${values.join(' ')}\n`;
      writeFileSync(`${TRACING}/kprobe_events`, line, { flag: 'a' });
      writeFileSync(`${TRACING}/events/${GROUP}/${probe.symbol}/enable`, '1');
    }
    this.clear();
  }

  /** The calls since the last {@link clear}, oldest first. */
  get calls(): readonly KernelCall[] {
    const lines = readFileSync(`${TRACING}/trace`, 'utf8').matchAll(/: (\w+): \([^)]*\)(.*)$/gm);
    return [...lines].map(([, symbol = '', rest = '']) => ({
      symbol,
      arguments: Object.fromEntries(
        [...rest.matchAll(/(\w+)=(0x[\da-f]+)/g)].map(([, name = '', value = '']) => [name, value]),
      ),
    }));
  }

  clear(): void {
    writeFileSync(`${TRACING}/trace`, '');
  }

  [Symbol.dispose](): void {
    for (const name of this.#names) {
      writeFileSync(`${TRACING}/events/${GROUP}/${name}/enable`, '0');
      writeFileSync(`${TRACING}/kprobe_events`, `-:${GROUP}/${name}\n`, { flag: 'a' });
    }
  }
}
