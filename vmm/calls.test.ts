import { describe, expect, test } from 'vitest';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { Calls, MOST_CALLS } from './calls.js';
import { answerCall, type CallCommand, Later, type MachineCallHandlers } from './machine-calls.js';
import type { Counters, MachineEvent, ReplyEvent } from './protocol.js';

const COUNTERS: Counters = { exits: { io: 3 }, accesses: {}, devices: [] };

/** A machine that answers with `counters`, on request or at once. */
function machine(counters: MachineCallHandlers['counters'] = () => COUNTERS) {
  const calls = new Calls();
  const sent: CallCommand[] = [];
  const answer = (command: CallCommand) =>
    answerCall({ counters } as MachineCallHandlers, command, (event: MachineEvent) =>
      calls.hear(event as ReplyEvent),
    );
  return { calls, sent, answer, receive: (command: CallCommand) => void sent.push(command) };
}

/** A promise's rejection, as data. */
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => 'resolved',
    (error: unknown) => error,
  );

describe('a call on the machine', () => {
  test('resolves to what the machine answers', async () => {
    const { calls, answer } = machine();
    calls.connect(answer);
    expect(await calls.call('counters')).toEqual(COUNTERS);
  });

  test('rejects with the error that the machine answers, errno and hint included', async () => {
    const { calls, answer } = machine(() => {
      throw new SysError({ call: 'counters', target: 'slot 3', errno: errno.ENODEV, hint: 'no such slot' });
    });
    calls.connect(answer);
    expect(await failure(calls.call('counters'))).toMatchObject({ code: 'ENODEV', hint: 'no such slot' });
  });

  test('is settled by a later result, which may come before or after it is asked for', async () => {
    const before = new Later<Counters>();
    const after = new Later<Counters>();
    before.resolve(COUNTERS);
    before.reject(new Error('settles once'));
    const first = machine(() => before);
    first.calls.connect(first.answer);
    expect(await first.calls.call('counters')).toEqual(COUNTERS);
    const second = machine(() => after);
    second.calls.connect(second.answer);
    const called = failure(second.calls.call('counters'));
    after.reject(new Error('the guest refused'));
    expect(await called).toMatchObject({ message: 'the guest refused' });
  });

  test('waits while there is no machine, and is sent once to the one that comes', async () => {
    const { calls, sent, answer, receive } = machine();
    const called = calls.call('counters');
    calls.connect(receive);
    calls.disconnect();
    calls.restart();
    expect(sent).toHaveLength(1);
    expect(await failure(called)).toMatchObject({ code: 'ECONNRESET' });
    const waiting = calls.call('counters');
    calls.connect(answer);
    expect(await waiting).toEqual(COUNTERS);
    expect(sent).toHaveLength(1);
  });

  test('that a restart interrupts fails alone, and its late reply is for nobody', async () => {
    const { calls, sent, answer, receive } = machine();
    calls.connect(receive);
    const interrupted = failure(calls.call('counters'));
    calls.disconnect();
    calls.restart();
    const waiting = calls.call('counters');
    calls.connect(answer);
    answer(sent[0] as CallCommand);
    expect(await interrupted).toMatchObject({ code: 'ECONNRESET' });
    expect(await waiting).toEqual(COUNTERS);
  });

  test('rejects at the end of the machine, and after it, with what ended it', async () => {
    const { calls, receive } = machine();
    calls.connect(receive);
    const pending = failure(calls.call('counters'));
    calls.end(undefined);
    expect(await pending).toMatchObject({ code: 'ESRCH' });
    expect(await failure(calls.call('counters'))).toMatchObject({ code: 'ESRCH' });
    const failed = machine();
    const waiting = failure(failed.calls.call('counters'));
    failed.calls.end(new Error('KVM_RUN failed'));
    expect(await waiting).toMatchObject({ message: 'KVM_RUN failed' });
    expect(await failure(failed.calls.call('counters'))).toMatchObject({ message: 'KVM_RUN failed' });
  });

  test('is refused while as many as are allowed are unanswered, and not any more once one is', async () => {
    const { calls, sent, answer, receive } = machine();
    calls.connect(receive);
    const pending = Array.from({ length: MOST_CALLS }, () => calls.call('counters'));
    expect(await failure(calls.call('counters'))).toMatchObject({ code: 'EBUSY' });
    expect(sent).toHaveLength(MOST_CALLS);
    answer(sent[0] as CallCommand);
    await pending[0];
    const next = calls.call('counters');
    for (const command of sent.slice(1)) answer(command);
    expect(await Promise.all([...pending, next])).toHaveLength(MOST_CALLS + 1);
  });
});
