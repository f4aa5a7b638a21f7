/** Whether a program ended as it should, after a call of it failed or a signal came. */
import { constants } from 'node:os';
import type { Fault } from './fault.js';
import type { Ending } from './injector.js';
import type { Moment } from './moment.js';
import { outsideOurReach } from './reach.js';
import type { Result } from './scenario.js';

/** 64 usage, 69 the host lacks something, 74 the output failed: vmm/cli-error.ts, vmm/output.ts. */
const WITH_SENTENCE: readonly number[] = [64, 69, 74];
/** 70 the guest crashed, from 129 on signals. */
const STATUSES: readonly number[] = [...WITH_SENTENCE, 70, 129, 130, 141, 143];
/** Of the guest: 1 to 63, it says why not. */
const MOST_VERDICT = 63;

const SENTENCE = /^tsvisor: \S/m;
/** Frames of a stack, and what Node prints around one. */
const STACK =
  /^\s+at .+:\d+:\d+\)?$|^\s+at .*\((?:node:|native|<anonymous>)|^node:internal|^file:\/\/|^Node\.js v\d/m;

export type Verdict =
  | { readonly kind: 'orderly' }
  /** The call was not made, or another thread was first. */
  | { readonly kind: 'missed' }
  | { readonly kind: 'outside'; readonly reason: string }
  | { readonly kind: 'wrong'; readonly problems: readonly string[] };

const wrongUnless = (problems: readonly string[], orElse: Verdict): Verdict =>
  problems.length > 0 ? { kind: 'wrong', problems } : orElse;

/** What is wrong however a program was to end. */
function problemsOf({ problems, ending }: Result): string[] {
  const { isLate, left, stdout, stderr } = ending;
  return [
    ...problems,
    ...(isLate ? ['it had to be killed'] : []),
    ...(left.length > 0 ? [`left processes: ${left.join(', ')}`] : []),
    ...(STACK.test(stderr) || STACK.test(stdout) ? ['prints a stack trace'] : []),
  ];
}

/** What is wrong with the exit status of a program of which a call failed. */
function statusProblems({ status, stdout, stderr }: Ending, isGuestOk: boolean | undefined): string[] {
  if (status === undefined) return [];
  const hasVerdict = isGuestOk !== undefined && /^ {2}verdict /m.test(stdout);
  if (status === 0) {
    if (isGuestOk === true) return [];
    return [isGuestOk === false ? 'status 0, but the guest did not succeed' : 'status 0, without SIGTERM'];
  }
  if (!STATUSES.includes(status) && !(hasVerdict && status <= MOST_VERDICT)) return [`status ${status}`];
  return WITH_SENTENCE.includes(status) && !SENTENCE.test(stderr)
    ? [`status ${status} without a sentence`]
    : [];
}

/** The file that unlink could not remove is there, of course; the sentence names it. */
const isUnlinks = (fault: Fault, { ending }: Result, problem: string): boolean =>
  fault.call.name === 'unlink' && problem.startsWith('left the file ') && /unlink/.test(ending.stderr);

export function judgeFault(fault: Fault, result: Result): Verdict {
  const { ending, isGuestOk } = result;
  const problems = problemsOf(result).filter((problem) => !isUnlinks(fault, result, problem));
  if (!ending.isLate) {
    if (ending.signal !== undefined) problems.push(`ended by ${ending.signal}`);
    problems.push(...statusProblems(ending, isGuestOk));
  }
  const reason = problems.length > 0 ? outsideOurReach(fault, ending) : undefined;
  if (reason !== undefined) return { kind: 'outside', reason };
  return wrongUnless(problems, { kind: ending.failed === 0 ? 'missed' : 'orderly' });
}

const NODE_STARTS =
  'a signal before the first line of ours has run: Node is still starting, and nothing is open';

export function judgeMoment({ signal }: Moment, result: Result): Verdict {
  const { ending, isGuestOk } = result;
  const { status, stdout, stderr } = ending;
  const problems = problemsOf(result);
  if (signal === 'SIGKILL') return wrongUnless(problems, { kind: 'orderly' });
  if (ending.isEarly && ending.signal === signal && stdout + stderr === '' && problems.length === 0)
    return { kind: 'outside', reason: NODE_STARTS };
  if (ending.signal !== undefined && !ending.isLate) problems.push(`ended by ${ending.signal}`);
  // It may have been over before; and a server is always ended by a SIGTERM at last.
  const isOver = isGuestOk === undefined ? status === 143 : status === 0 && isGuestOk;
  const isStopped = signal !== 'SIGUSR2' && status === 128 + constants.signals[signal];
  if (!isOver && !isStopped && ending.signal === undefined) problems.push(`status ${status}`);
  return wrongUnless(problems, { kind: 'orderly' });
}

/** What is printed about one trial. */
export function textOf(name: string, { ending }: Result, problems: readonly string[]): string {
  const tail = (text: string) => text.trimEnd().split('\n').slice(-12).join('\n').replace(/^/gm, '      ');
  const by = ending.caller === '' ? '' : `, by ${ending.caller}`;
  return [
    `  ${name}${by}: ${problems.join('; ')}`,
    ...(ending.stderr === '' ? [] : [tail(ending.stderr)]),
    ...(process.env.TSVISOR_DEBUG === undefined ? [] : [tail(ending.stdout)]),
  ].join('\n');
}
