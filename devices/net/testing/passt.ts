import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/**
 * Why passt cannot be tested here; undefined if it can.
 * @throws Error if it cannot, but TSVISOR_REQUIRED_TIERS names `passt`
 */
export function passtProblem(): string | undefined {
  if (spawnSync('passt', ['--version']).status === 0) return undefined;
  const required = (process.env.TSVISOR_REQUIRED_TIERS ?? '').split(',');
  const problem = 'passt is not installed (apt install passt)';
  if (required.includes('passt')) throw new Error(`${problem}, but TSVISOR_REQUIRED_TIERS asks for it`);
  return problem;
}

/** Child processes that run `program` (the first 15 characters of its name), zombies included. */
export function childrenNamed(program: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const [, name, rest = ''] = /\((.*)\) (.*)/s.exec(statOf(pid)) ?? [];
      return name?.startsWith(program) === true && Number(rest.split(' ')[1]) === process.pid;
    });
}

function statOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return ''; // it exited meanwhile
  }
}
