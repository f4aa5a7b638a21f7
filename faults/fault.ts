/** One fault: which call of which thread fails, and how. */
import { errno } from '../sys/errno.js';
import { type ErrnoName, errnosOf, SYSTEM_CALLS, type SystemCall } from './system-calls.js';

/** A kind of call that a recorded run made. */
export interface Kind {
  readonly call: SystemCall;
  /** Of ioctl; -1 for other calls. */
  readonly request: number;
  /** `main`, or the name that the thread had at the call; `node` is a thread of Node's, or one of ours before its name. */
  readonly thread: string;
  /** How often the run made it. */
  readonly count: number;
}

export interface Fault {
  readonly scenario: string;
  readonly thread: string;
  readonly call: SystemCall;
  readonly request: number;
  /** The first call that fails, from 1. */
  readonly nth: number;
  /** All later ones fail as well. */
  readonly isLasting: boolean;
  readonly errno: ErrnoName;
}

/** The fault's name, by which it can be run again: `run:main:openat:12:EMFILE`, `serve:main:clone3:2+:EAGAIN`. */
export function nameOf({ scenario, thread, call, request, nth, isLasting, errno }: Fault): string {
  const kind = request < 0 ? call.name : `${call.name}/0x${request.toString(16)}`;
  return [scenario, thread, kind, `${nth}${isLasting ? '+' : ''}`, errno].join(':');
}

/** @throws Error for what is no name of a fault */
export function faultOf(name: string): Fault {
  const [scenario = '', thread = '', kind = '', nth = '', code = ''] = name.split(':');
  const [callName, request] = kind.split('/');
  const call = SYSTEM_CALLS.find((each) => each.name === callName);
  if (call === undefined || !/^\d+\+?$/.test(nth) || !(code in errno))
    throw new Error(`${name}: a fault is SCENARIO:THREAD:CALL[/REQUEST]:NTH[+]:ERRNO`);
  return {
    scenario,
    thread,
    call,
    request: request === undefined ? -1 : Number(request),
    nth: Number.parseInt(nth, 10),
    isLasting: nth.endsWith('+'),
    errno: code as ErrnoName,
  };
}

/** A fault of any kind, all kinds alike: most calls are futex and KVM_RUN, and most ways to fail are elsewhere. */
export function pick(scenario: string, kinds: readonly Kind[], random: () => number): Fault {
  const among = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  const { call, request, thread, count } = among(kinds);
  return {
    scenario,
    thread,
    call,
    request,
    nth: 1 + Math.floor(random() * count),
    isLasting: call.canLast === true && random() < 0.5,
    errno: among(errnosOf(call, request)),
  };
}
