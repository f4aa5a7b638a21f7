/** For tests: a running machine, what its guest has said, and what of this process it holds. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mappedFiles, openFds, threadCount } from '../../sys/testing/open-fds.js';
import type { VmConfigInput } from '../config.js';
import { VirtualMachine, type VmObserver } from '../virtual-machine.js';

export interface TalkingMachine {
  readonly vm: VirtualMachine;
  serial(): string;
  steps(): readonly string[];
  /** Resolves once the guest has said the text `times` times; rejects if the machine ends before. */
  says(text: string, times?: number): Promise<void>;
}

/** Starts a machine; end it by disposing its `vm`. @param start how, if it does not boot */
export function startTalking(
  config: VmConfigInput,
  observer: VmObserver = {},
  start = VirtualMachine.start,
): TalkingMachine {
  let text = '';
  const steps: string[] = [];
  const waiting = new Set<() => void>();
  const vm = start(config, {
    ...observer,
    serial: (bytes) => {
      text += Buffer.from(bytes).toString('latin1');
      for (const check of waiting) check();
    },
    step: (step) => steps.push(step),
  });
  return {
    vm,
    serial: () => text,
    steps: () => steps,
    says: (wanted, times = 1) =>
      new Promise((resolve, reject) => {
        const check = () => {
          if (text.split(wanted).length <= times) return;
          waiting.delete(check);
          resolve();
        };
        waiting.add(check);
        check();
        vm.finished.then(
          ({ outcome }) =>
            reject(
              new Error(
                `the guest ended without '${wanted}': ${JSON.stringify(outcome)}\n${text}\n${steps.join('\n')}`,
              ),
            ),
          reject,
        );
      }),
  };
}

/** Sources of all epoll instances of this process: what event loops wait for. */
function eventSources(): number {
  let sources = 0;
  for (const number of readdirSync('/proc/self/fd')) {
    try {
      if (readlinkSync(`/proc/self/fd/${number}`) !== 'anon_inode:[eventpoll]') continue;
      sources += readFileSync(`/proc/self/fdinfo/${number}`, 'utf8').split('tfd:').length - 1;
    } catch {
      // closed by now
    }
  }
  return sources;
}

/** What this process holds: descriptors by kind (their numbers are reused in another order), and so on. */
export const held = () => ({
  fds: openFds()
    .map((fd) => fd.split(' ')[1])
    .sort(),
  sources: eventSources(),
  threads: threadCount(),
  mapped: mappedFiles().length,
});

/** Memory slots of KVM in use and regions of guest memory, counted from the events of `trace: ['memory']`. */
export class MemoryBalance {
  readonly now = { slots: 0, regions: 0 };

  hear(text: string): void {
    if (text.includes('"slot added"')) this.now.slots++;
    else if (text.includes('"slot removed"')) this.now.slots--;
    else if (text.includes('"added"')) this.now.regions++;
    else if (text.includes('"removed"')) this.now.regions--;
  }
}
