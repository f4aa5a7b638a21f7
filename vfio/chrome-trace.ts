/** A timeline as a file for other programs. Browsers load it, too: it needs nothing of Node. */
import type { TimelineEvent } from './timeline.js';

/** For JSON.stringify: bigints as hexadecimal strings. */
export const plain = (_key: string, value: unknown): unknown =>
  typeof value === 'bigint' ? `0x${value.toString(16)}` : value;

/** A trace for chrome://tracing and Perfetto: one row per task, arrows from causes to effects. */
export function toChromeTrace(events: readonly TimelineEvent[]): string {
  const rows = new Map<string, number>();
  const row = (task: string): number => {
    const known = rows.get(task) ?? rows.size + 1;
    rows.set(task, known);
    return known;
  };
  const bySeq = new Map(events.filter(({ seq }) => seq > 0).map((event) => [event.seq, event]));
  const out: Record<string, unknown>[] = [];
  for (const event of events) {
    const place = { pid: 1, tid: row(event.task), ts: event.at * 1000 };
    out.push({ name: event.what, ph: 'X', dur: 1, cat: 'vfio', args: event.details, ...place });
    const cause = bySeq.get(event.cause);
    if (cause === undefined) continue;
    const flow = { name: 'cause', cat: 'vfio', id: event.seq };
    out.push({ ...flow, ph: 's', pid: 1, tid: row(cause.task), ts: cause.at * 1000 });
    out.push({ ...flow, ph: 'f', bp: 'e', ...place });
  }
  for (const [task, tid] of rows)
    out.push({ name: 'thread_name', ph: 'M', pid: 1, tid, args: { name: task } });
  return JSON.stringify({ traceEvents: out }, plain);
}
