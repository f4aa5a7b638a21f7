/** For lab tests: a running L2 under tsvisor in L1. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { inL1 } from './images.js';
import { type L2Options, l2CommandLine } from './l2.js';

export interface RunningGuest {
  readonly child: ChildProcess;
  /** Resolves with exit code and signal. */
  readonly ended: Promise<unknown[]>;
  output(): string;
  /** Resolves once the output contains the text `times` times. */
  says(text: string, times?: number): Promise<void>;
}

/** Boots L2 with `tsvisor run` and further arguments, such as devices. A guest that restarts ends. */
export function startGuest(args: readonly string[], options: L2Options): RunningGuest {
  return startRestartingGuest(['--no-reboot', ...args], options);
}

/** The same for a guest that may restart any number of times. */
export function startRestartingGuest(args: readonly string[], options: L2Options): RunningGuest {
  const files = ['--kernel', inL1.kernel, '--initrd', inL1.initrd, '--memory', '256M'];
  return startRun([...files, ...args, '--append', l2CommandLine(options)]);
}

/** Starts `tsvisor run`; without a kernel, it boots the built-in guest. */
export const startRun = (args: readonly string[]): RunningGuest => startCommand(['run', ...args]);

/** Starts any of tsvisor's commands. */
export function startCommand(command: readonly string[]): RunningGuest {
  const child = spawn(process.execPath, ['dist/vmm/cli.js', ...command], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  const waiting: (() => void)[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (piece) => {
      text += String(piece);
      for (const check of [...waiting]) check();
    });
  }
  const ended = once(child, 'exit');
  return {
    child,
    ended,
    output: () => text.replaceAll('guest | ', ''),
    says: (wanted, times = 1) =>
      new Promise((resolve, reject) => {
        const check = () => text.split(wanted).length > times && resolve();
        waiting.push(check);
        check();
        void ended.then(() => reject(new Error(`the guest ended without '${wanted}':\n${text}`)));
      }),
  };
}

/** Exits by device, as a run reports them at its end: `0000:00:10.0 config` and the like. */
export function exitsByDevice(output: string): Record<string, number> {
  const [, text = ''] = /by device: (.*)/.exec(output) ?? [];
  return Object.fromEntries(
    text.split(', ').map((part) => {
      const at = part.lastIndexOf(' ');
      return [part.slice(0, at), Number(part.slice(at + 1).replaceAll(',', ''))];
    }),
  );
}
