import { toChromeTrace } from '../../../vfio/chrome-trace.js';
import { download } from './download.js';
import type { TimelinePart } from './server.js';

type TimelineEvent = TimelinePart['events'][number];

/** The newest events are drawn and listed. */
const MOST_SHOWN = 1000;
const WIDTH = 1000;
const ROW = 22;
const LEFT = 110;

const millis = (ms: number): string => `${ms.toFixed(3)} ms`;
const anchor = ({ seq }: Pick<TimelineEvent, 'seq'>): string => `event-${seq}`;

function describe({ what, details }: TimelineEvent): string {
  const text = Object.entries(details).map(([name, value]) => `${name}=${value}`);
  return [what, ...text].join(' ');
}

/** One row per task, a dot per event, a curve from each cause to its effect. The table says the same in words. */
function Drawing({ events }: { readonly events: readonly TimelineEvent[] }) {
  const tasks = [...new Set(events.map(({ task }) => task))];
  const first = events[0]?.at ?? 0;
  const span = Math.max((events.at(-1)?.at ?? 0) - first, 1e-6);
  const x = ({ at }: TimelineEvent) => LEFT + ((at - first) / span) * (WIDTH - LEFT - 10);
  const y = ({ task }: TimelineEvent) => ROW * (tasks.indexOf(task) + 0.5);
  const bySeq = new Map(events.filter(({ seq }) => seq > 0).map((event) => [event.seq, event]));
  return (
    <svg
      class="timeline"
      viewBox={`0 0 ${WIDTH} ${ROW * tasks.length + 16}`}
      role="img"
      aria-label="Timeline: a row for each task, a dot for each event; the table below lists them"
    >
      {tasks.map((task, i) => (
        <g key={task}>
          <line class="row" x1={LEFT} x2={WIDTH} y1={ROW * (i + 0.5)} y2={ROW * (i + 0.5)} />
          <text x="0" y={ROW * (i + 0.5) + 4}>
            {task === '' ? 'outside a core' : task}
          </text>
        </g>
      ))}
      {events.map((event, i) => {
        const cause = bySeq.get(event.cause);
        if (cause === undefined) return null;
        const [x1, y1, x2, y2] = [x(cause), y(cause), x(event), y(event)];
        return (
          <path
            key={i}
            class="cause"
            d={`M${x1} ${y1}Q${(x1 + x2) / 2} ${Math.min(y1, y2) - 8} ${x2} ${y2}`}
          />
        );
      })}
      {events.map((event, i) => (
        <circle key={i} cx={x(event)} cy={y(event)} r="3">
          <title>{`${millis(event.at - first)} ${describe(event)}`}</title>
        </circle>
      ))}
      <text x={LEFT} y={ROW * tasks.length + 12}>
        {millis(0)}
      </text>
      <text x={WIDTH} y={ROW * tasks.length + 12} text-anchor="end">
        {millis(span)}
      </text>
    </svg>
  );
}

/** VFIO's operations with their causes, drawn and as a table. */
export function Timeline({ events: kept, dropped }: TimelinePart) {
  const events = kept.slice(-MOST_SHOWN);
  const save = () =>
    download(new Blob([toChromeTrace(kept)], { type: 'application/json' }), 'tsvisor-timeline.json');
  if (kept.length === 0) return null;
  const first = events[0]?.at ?? 0;
  const known = new Set(events.map(({ seq }) => seq));
  return (
    <details open>
      <summary>Association timeline</summary>
      <p>
        {kept.length.toLocaleString('en')} events
        {dropped > 0 && `, ${dropped.toLocaleString('en')} are missing`}.{' '}
        <button type="button" onClick={save}>
          Save for Perfetto
        </button>
      </p>
      <Drawing events={events} />
      <section class="scroll" aria-label="Events of the timeline">
        <table data-panel="timeline">
          <thead>
            <tr>
              <th scope="col" class="number">
                time
              </th>
              <th scope="col" class="number">
                event
              </th>
              <th scope="col">cause</th>
              <th scope="col">what</th>
            </tr>
          </thead>
          <tbody>
            {events.map((event, i) => (
              <tr key={i} id={event.seq > 0 ? anchor(event) : undefined}>
                <td class="number">{millis(event.at - first)}</td>
                <td class="number">{event.seq > 0 ? event.seq : ''}</td>
                <td>
                  {event.cause > 0 && known.has(event.cause) ? (
                    <a href={`#${anchor({ seq: event.cause })}`}>{event.cause}</a>
                  ) : (
                    event.cause > 0 && event.cause
                  )}
                </td>
                <td>
                  <code>{describe(event)}</code>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </details>
  );
}
