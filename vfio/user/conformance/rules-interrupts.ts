/** Rules of VFIO_USER_DEVICE_SET_IRQS: flags, ranges, descriptors, triggers. */
import { drainEventfd } from '../../../sys/eventfd.js';
import { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import {
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '../../uapi.js';
import { HEADER_BYTES, VFIO_USER_DEVICE_SET_IRQS } from '../protocol.js';
import { irqSet } from './payloads.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import type { IrqFact, ServerFacts } from './server-facts.js';
import { exchange, type Play, REFUSED, refused, refuses, type ServerRule } from './server-rule.js';
import { type Heard, isAnswer, isError, isSuccess, Pauses } from './wire.js';

const section = 'VFIO_USER_DEVICE_SET_IRQS';
const command = VFIO_USER_DEVICE_SET_IRQS;
const NONE_TRIGGER = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
const BOOL_TRIGGER = VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER;
const EVENTFD_TRIGGER = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
const FAR = 0xffff_ffff;
const NO_IRQS = 'no interrupt of the device takes an eventfd';

/** The kind of interrupt to try, messages rather than a pin. */
export function usualIrq({ irqs }: ServerFacts): IrqFact | undefined {
  const fit = irqs.filter(({ flags }) => (flags & VFIO_IRQ_INFO_EVENTFD) !== 0);
  for (const wanted of [VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_INTX_IRQ_INDEX]) {
    const found = fit.find(({ index }) => index === wanted);
    if (found !== undefined) return found;
  }
  return fit[0];
}

/** A rule that needs an interrupt, and eventfds. */
const withIrq = (
  row: {
    readonly name: string;
    readonly sent: string;
    readonly expected: string;
    readonly choose?: (facts: ServerFacts) => IrqFact | undefined;
    readonly none?: string;
  },
  play: (play: Play, irq: IrqFact, bells: readonly Fd[]) => Promise<Outcome>,
): ServerRule => {
  const { name, sent, expected, choose = usualIrq, none = NO_IRQS } = row;
  return {
    name,
    section,
    sent,
    expected,
    async play(on) {
      const irq = choose(on.facts);
      if (irq === undefined) return inapplicable(none);
      using scope = new Scope();
      const bells = [0, 1].map((i) => scope.own(Fd.eventfd(`conformance ${i}`)));
      return await play(on, irq, bells);
    },
  };
};

/** A set that is refused; `payload` gets the index of an interrupt. */
const wrongSet = (
  name: string,
  sent: string,
  payload: (irq: IrqFact, facts: ServerFacts) => Uint8Array,
): ServerRule =>
  refuses({
    name,
    section,
    sent,
    ask: (facts) => {
      const irq = usualIrq(facts);
      return irq === undefined ? NO_IRQS : { command, payload: payload(irq, facts) };
    },
  });

/** A set whose number of descriptors is not its count. */
const wrongCount = (name: string, sent: string, count: number, fds: number): ServerRule =>
  withIrq(
    {
      name,
      sent,
      expected: REFUSED,
      choose: (facts) => {
        const irq = usualIrq(facts);
        return irq !== undefined && irq.count >= count && facts.maxMsgFds >= fds ? irq : undefined;
      },
      none: `no interrupt of the device has ${count}, or it takes fewer than ${fds} descriptors`,
    },
    async (play, { index }, bells) => {
      const numbers = bells.slice(0, fds).map(({ number }) => number);
      const payload = irqSet(EVENTFD_TRIGGER, index, 0, count);
      return refused(play, await exchange(play, { command, payload, fds: numbers }));
    },
  );

const assign = (play: Play, index: number, bell: Fd): Promise<Heard> =>
  play.wire.ask(command, irqSet(EVENTFD_TRIGGER, index, 0, 1), [bell.number]);

async function isSignalled(bell: Fd, waitMs: number): Promise<boolean> {
  const deadline = performance.now() + waitMs;
  const pauses = new Pauses();
  do {
    if (drainEventfd(bell.number) > 0n) return true;
    await pauses.next();
  } while (performance.now() < deadline);
  return false;
}

/** What must not come is not waited for as long as what must: a server signals before it replies. */
const QUIET_MS = 20;

/** Assigns an eventfd, triggers, and looks at it. */
const triggers = (
  name: string,
  sent: string,
  flags: number,
  data: readonly number[],
  isMeant: boolean,
): ServerRule =>
  withIrq(
    { name, sent, expected: isMeant ? 'the eventfd is signalled' : 'the eventfd is not signalled' },
    async (play, { index }, [bell]) => {
      const assigned = await assign(play, index, bell as Fd);
      if (!isSuccess(assigned)) return failed(`to the eventfd: ${play.describe(assigned)}`);
      drainEventfd((bell as Fd).number);
      const heard = await play.wire.ask(command, irqSet(flags, index, 0, 1, data));
      if (isError(heard)) return inapplicable(`this interrupt cannot be triggered: ${play.describe(heard)}`);
      if (!isSuccess(heard)) return failed(play.describe(heard));
      const is = await isSignalled(bell as Fd, isMeant ? play.patienceMs : QUIET_MS);
      return (is === isMeant ? passed : failed)(is ? 'it is signalled' : 'it is not signalled');
    },
  );

/** Assigns an eventfd, takes it away by a second set of `flags` and `count`, triggers, and looks at it. */
const silences = (name: string, sent: string, flags: number, count: number): ServerRule =>
  withIrq(
    { name, sent, expected: 'a reply to the second; the eventfd is not signalled' },
    async (play, { index }, [bell]) => {
      await assign(play, index, bell as Fd);
      const heard = await play.wire.ask(command, irqSet(flags, index, 0, count));
      if (!isSuccess(heard)) return failed(play.describe(heard));
      drainEventfd((bell as Fd).number);
      const last = await play.wire.ask(command, irqSet(NONE_TRIGGER, index, 0, 1));
      if (!isAnswer(last)) return failed(`to the trigger: ${play.describe(last)}`);
      const is = await isSignalled(bell as Fd, QUIET_MS);
      return is ? failed('it is signalled all the same') : passed(play.describe(heard));
    },
  );

const pair = (first: number, second: number) => (irq: IrqFact) =>
  irqSet(first | second, irq.index, 0, 1, [1]);

export const INTERRUPT_RULES: readonly ServerRule[] = [
  withIrq(
    {
      name: 'set-irqs-eventfd',
      sent: 'DATA_EVENTFD and ACTION_TRIGGER for one interrupt, with one eventfd',
      expected: 'a reply without payload',
    },
    async (play, { index }, [bell]) => {
      const heard = await assign(play, index, bell as Fd);
      if (!isSuccess(heard)) return failed(play.describe(heard));
      return (heard.reply.size === HEADER_BYTES ? passed : failed)(play.describe(heard));
    },
  ),
  triggers('set-irqs-trigger-none', 'an eventfd, then DATA_NONE and ACTION_TRIGGER', NONE_TRIGGER, [], true),
  triggers(
    'set-irqs-trigger-true',
    'an eventfd, then DATA_BOOL with 1 and ACTION_TRIGGER',
    BOOL_TRIGGER,
    [1],
    true,
  ),
  triggers(
    'set-irqs-trigger-false',
    'an eventfd, then DATA_BOOL with 0 and ACTION_TRIGGER',
    BOOL_TRIGGER,
    [0],
    false,
  ),
  silences(
    'set-irqs-de-assign',
    'an eventfd, DATA_EVENTFD without descriptors, and a trigger',
    EVENTFD_TRIGGER,
    1,
  ),
  silences(
    'set-irqs-disable',
    'an eventfd, DATA_NONE and ACTION_TRIGGER with start 0 and count 0, and a trigger',
    NONE_TRIGGER,
    0,
  ),
  withIrq(
    {
      name: 'set-irqs-mask',
      sent: 'an eventfd, then MASK and UNMASK of an interrupt with VFIO_IRQ_INFO_MASKABLE',
      expected: 'replies',
      choose: ({ irqs }) => irqs.find(({ flags }) => (flags & VFIO_IRQ_INFO_MASKABLE) !== 0),
      none: 'no interrupt is maskable',
    },
    async (play, { index }, [bell]) => {
      const assigned = await assign(play, index, bell as Fd);
      if (!isSuccess(assigned)) return failed(`to the eventfd: ${play.describe(assigned)}`);
      for (const action of [VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK]) {
        const heard = await play.wire.ask(command, irqSet(VFIO_IRQ_SET_DATA_NONE | action, index, 0, 1));
        if (!isSuccess(heard))
          return failed(
            `to ${action === VFIO_IRQ_SET_ACTION_MASK ? 'MASK' : 'UNMASK'}: ${play.describe(heard)}`,
          );
      }
      return passed('replies');
    },
  ),
  wrongCount('set-irqs-more-descriptors', 'count 1, with 2 eventfds', 1, 2),
  wrongCount('set-irqs-fewer-descriptors', 'count 2, with 1 eventfd', 2, 1),
  wrongSet('set-irqs-no-data-flag', 'ACTION_TRIGGER alone', pair(VFIO_IRQ_SET_ACTION_TRIGGER, 0)),
  wrongSet('set-irqs-no-action-flag', 'DATA_BOOL alone', pair(VFIO_IRQ_SET_DATA_BOOL, 0)),
  wrongSet(
    'set-irqs-two-data-flags',
    'DATA_NONE and DATA_BOOL, which exclude each other',
    pair(NONE_TRIGGER, VFIO_IRQ_SET_DATA_BOOL),
  ),
  wrongSet(
    'set-irqs-two-actions',
    'ACTION_TRIGGER and ACTION_MASK, which exclude each other',
    pair(BOOL_TRIGGER, VFIO_IRQ_SET_ACTION_MASK),
  ),
  wrongSet('set-irqs-index-outside', 'the index num_irqs', (_irq, { numIrqs }) =>
    irqSet(NONE_TRIGGER, numIrqs, 0, 1),
  ),
  wrongSet('set-irqs-start-outside', 'start behind the last interrupt', ({ index, count }) =>
    irqSet(EVENTFD_TRIGGER, index, count, 1),
  ),
  wrongSet('set-irqs-count-outside', 'a count that ends behind the last interrupt', ({ index, count }) =>
    irqSet(EVENTFD_TRIGGER, index, 0, count + 1),
  ),
  wrongSet('set-irqs-range-overflows', `start 1 and count 0x${FAR.toString(16)}`, ({ index }) =>
    irqSet(EVENTFD_TRIGGER, index, 1, FAR),
  ),
  wrongSet('set-irqs-data-missing', 'DATA_BOOL of one interrupt without its byte', ({ index }) =>
    irqSet(BOOL_TRIGGER, index, 0, 1),
  ),
  wrongSet('set-irqs-argsz-too-small', 'argsz 16', ({ index }) => irqSet(NONE_TRIGGER, index, 0, 0, [], 16)),
  wrongSet('set-irqs-too-short', 'a payload of 16 bytes', ({ index }) =>
    irqSet(NONE_TRIGGER, index, 0, 0).subarray(0, 16),
  ),
];
