import { Counts } from './counts.js';
import { History } from './history.js';
import { colourOf, Plot } from './plot.js';
import type { Counters } from './server.js';

const rate = (values: readonly number[]): string => Math.round(values.at(-1) ?? 0).toLocaleString('en');

/** Exits by device over time, and by kind. */
export function Exits({ counters, history }: { readonly counters: Counters; readonly history: History }) {
  const { series } = history;
  return (
    <details open>
      <summary>Exits</summary>
      <Plot
        series={series}
        samples={History.samples}
        unit="per second"
        label="Trapped accesses to each device per second, over the last two minutes; the table has the numbers"
      />
      <div class="scroll">
        <table data-panel="accesses">
          <caption>Trapped accesses by device</caption>
          <thead>
            <tr>
              <th scope="col">device</th>
              <th scope="col" class="number">
                accesses
              </th>
              <th scope="col" class="number">
                per second
              </th>
            </tr>
          </thead>
          <tbody>
            {series.map(({ name, values }, i) => (
              <tr key={name}>
                <th scope="row">
                  <svg class="swatch" viewBox="0 0 10 7" aria-hidden="true">
                    <rect width="10" height="7" fill={colourOf(i)} />
                  </svg>
                  {name}
                </th>
                <td class="number" data-count={name}>
                  {(counters.accesses[name] ?? 0).toLocaleString('en')}
                </td>
                <td class="number">{rate(values)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div data-panel="exits">
        <Counts caption="Exits by kind" counts={counters.exits} />
      </div>
    </details>
  );
}
