import { createHash } from 'node:crypto';
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasOwnerEnded, ownerText } from './owner.js';
import { cacheFolder } from './paths.js';

/** Prints progress to standard error: standard output belongs to the command that runs in the lab. */
export function say(text: string): void {
  process.stderr.write(`lab: ${text}\n`);
}

export const seconds = (sinceMs: number): string => `${((performance.now() - sinceMs) / 1000).toFixed(1)} s`;

/** Something built once, and cached until its inputs change. */
export interface Step {
  readonly name: string;
  /** Text that the result depends on: a change rebuilds it. */
  readonly inputs: readonly string[];
  build(): Promise<void>;
}

const stampFile = (step: Step): string => join(cacheFolder, 'stamps', step.name);

const digest = (step: Step): string => createHash('sha256').update(JSON.stringify(step.inputs)).digest('hex');

function isDone(step: Step): boolean {
  try {
    return readFileSync(stampFile(step), 'utf8') === digest(step);
  } catch {
    return false;
  }
}

/** Builds, in order, from the first step that is out of date. One process at a time. */
export async function runSteps(steps: readonly Step[]): Promise<void> {
  if (steps.every(isDone)) return;
  await using _lock = await lockCache();
  const first = steps.findIndex((step) => !isDone(step));
  if (first < 0) return;
  for (const step of steps.slice(first)) {
    rmSync(stampFile(step), { force: true });
    say(`${step.name} ...`);
    const start = performance.now();
    await step.build();
    mkdirSync(join(cacheFolder, 'stamps'), { recursive: true });
    writeFileSync(stampFile(step), digest(step));
    say(`${step.name}: done in ${seconds(start)}`);
  }
}

async function lockCache(): Promise<AsyncDisposable> {
  const file = join(cacheFolder, 'lock');
  const mine = `${file}.${process.pid}`;
  const release = () => rmSync(file, { force: true });
  mkdirSync(cacheFolder, { recursive: true });
  for (let told = false; ; ) {
    try {
      // Linked, not created: whenever the file exists, it names its owner.
      writeFileSync(mine, ownerText());
      linkSync(mine, file);
      process.on('exit', release);
      return {
        async [Symbol.asyncDispose]() {
          process.off('exit', release);
          release();
        },
      };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    } finally {
      rmSync(mine, { force: true });
    }
    const owner = readFileSync(file, { encoding: 'utf8', flag: 'a+' });
    if (hasOwnerEnded(owner)) {
      release();
      continue;
    }
    if (!told) say(`waiting for process ${owner.split(' ')[1]}, which is filling ${cacheFolder}`);
    told = true;
    await sleep(500);
  }
}
