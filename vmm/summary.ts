import { exitStatus, type Outcome } from './outcome.js';
import type { Phase, RunReport } from './protocol.js';

/** Progress codes of the built-in guest (vmm/guest/abi.h). */
const GUEST_PHASES: Readonly<Record<number, string>> = {
  16: 'first instruction',
  32: 'PCI scan',
  36: 'display set-up',
  40: 'drawing',
  44: 'after drawing',
  48: 'virtio set-up',
  64: 'network configuration',
  80: 'traffic',
  96: 'after traffic',
  112: 'report',
};
/** The built-in guest has ten; Linux writes to the same port to wait. */
const MOST_SPANS = 16;
const DRAWING_BEGINS = 0x28;
const DRAWING_ENDS = 0x2c;
const TRAFFIC_BEGINS = 0x50;
const TRAFFIC_ENDS = 0x60;

const count = (value: number) => value.toLocaleString('en-US');
const row = (label: string, text: string) => `  ${label.padEnd(12)}${text}`;

/** A summary of the run, in lines. @param startMs when the process started, on the monotonic clock */
export function summaryText(report: RunReport, startMs: number): string {
  const lines = [
    '',
    ...outcomeLines(report.outcome),
    ...report.devices.map((device) => row('device', `${device.name}: ${countersText(device.counters)}`)),
    ...drawingLines(report),
    ...trafficLines(report),
    row('exits', countersText(report.exits)),
    row('', `by device: ${countersText(report.accesses)}`),
    row('', `KVM_RUN through ${report.ffi}`),
    ...droppedLines(report.dropped),
    ...phaseLines(report.phases, startMs),
  ];
  return lines.join('\n');
}

function outcomeLines(outcome: Outcome): string[] {
  const code = `exit code ${exitStatus(outcome)}`;
  switch (outcome.kind) {
    case 'verdict':
      return [row('verdict', `${outcome.status === 0 ? 'ok' : 'failed'}, ${code}`)];
    case 'powered-off':
      return [row('ended', `the guest shut down, ${code}`)];
    case 'reset':
      return [row('ended', `the guest requested a reset, ${code}`)];
    case 'moved':
      return [row('moved', `to ${outcome.to}, ${code}`)];
    case 'stopped':
      return [row('stopped', `by ${outcome.by}, ${code}`)];
    case 'crashed':
      return [
        row('crashed', `${outcome.title}, ${code}`),
        ...outcome.details.map((detail) => row('', detail)),
        row('', `hint: ${outcome.hint}`),
      ];
  }
}

const droppedLines = (dropped: RunReport['dropped']): string[] =>
  Object.keys(dropped).length === 0
    ? []
    : [row('dropped', `${countersText(dropped)}: too many, or not read`)];

const countersText = (counters: Readonly<Record<string, number>>): string =>
  Object.entries(counters)
    .filter(([, value]) => value !== 0)
    .map(([name, value]) => `${name} ${count(value)}`)
    .join(', ') || 'nothing';

const markOf = ({ phases }: RunReport, wanted: number) => phases.find(({ code }) => code === wanted);

/** Exits between two progress codes. Writing the second code is itself an exit, and is not counted. */
function exitsBetween(begin: Phase, end: Phase): number {
  const exits = difference(end.exits, begin.exits);
  return (exits.io ?? 0) - 1 + (exits.mmio ?? 0);
}

function drawingLines(report: RunReport): string[] {
  const [begin, end] = [markOf(report, DRAWING_BEGINS), markOf(report, DRAWING_ENDS)];
  if (begin === undefined || end === undefined) return [];
  return [
    row('drawing', `${count(exitsBetween(begin, end))} KVM exits: the video memory is mapped into the guest`),
  ];
}

/** What happened between the guest's two traffic codes: device activity, and the exits that it took. */
function trafficLines(report: RunReport): string[] {
  const [begin, end] = [markOf(report, TRAFFIC_BEGINS), markOf(report, TRAFFIC_ENDS)];
  if (begin === undefined || end === undefined) return [];
  const work = end.devices.map((device, i) =>
    countersText(difference(device.counters, begin.devices[i]?.counters ?? {})),
  );
  return [
    row('traffic', `${work.join('; ')}`),
    row(
      '',
      `${count(exitsBetween(begin, end))} KVM exits for all of it: doorbells are ioeventfds, interrupts are irqfds`,
    ),
  ];
}

function difference(
  after: Readonly<Record<string, number>>,
  before: Readonly<Record<string, number>>,
): Record<string, number> {
  return Object.fromEntries(
    Object.entries(after).map(([name, value]) => [name, value - (before[name] ?? 0)]),
  );
}

function phaseLines(phases: readonly Phase[], startMs: number): string[] {
  const spans: string[] = [];
  let last = startMs;
  for (const [i, { at }] of phases.entries()) {
    if (i === MOST_SPANS) {
      spans.push(`${count(phases.length - i)} more`);
      break;
    }
    const name = i === 0 ? 'start' : (GUEST_PHASES[phases[i - 1]?.code ?? -1] ?? 'guest');
    spans.push(`${name} ${(at - last).toFixed(1)} ms`);
    last = at;
  }
  return spans.length === 0 ? [] : [row('time', spans.join(', '))];
}
