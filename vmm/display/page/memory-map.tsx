import type { MemoryRange } from './server.js';
import { size } from './units.js';

function pagesOf(pages: MemoryRange['pages']): string {
  if (pages === undefined) return 'unknown';
  const huge = pages.hugeBytes === 0 ? '' : `, ${size(pages.hugeBytes)} in huge ones`;
  return `${size(pages.pageBytes)}, ${size(pages.residentBytes)} present${huge}`;
}

/** The guest's memory: what the guest, this process and the devices call it, and what mapping it took. */
export function MemoryMap({ memory }: { readonly memory: readonly MemoryRange[] }) {
  return (
    <details open>
      <summary>Memory map</summary>
      <section class="scroll" aria-label="Memory map">
        <table data-panel="memory">
          <thead>
            <tr>
              <th scope="col">range</th>
              <th scope="col">kind</th>
              <th scope="col">guest physical</th>
              <th scope="col" class="number">
                bytes
              </th>
              <th scope="col">in this process</th>
              <th scope="col" class="number">
                mapped in
              </th>
              <th scope="col">for devices</th>
              <th scope="col">pages</th>
            </tr>
          </thead>
          <tbody>
            {memory.map(({ name, kind, gpa, bytes, hva, ms, dma, pages }) => (
              <tr key={gpa}>
                <th scope="row">{name}</th>
                <td>{kind}</td>
                <td>
                  <code>{gpa}</code>
                </td>
                <td class="number">{size(bytes)}</td>
                <td>
                  <code>{hva}</code>
                </td>
                <td class="number">{ms.toFixed(3)} ms</td>
                <td>
                  {dma.map((map) => (
                    <div key={map.space}>
                      <code>{map.iova}</code> in {map.space}, {map.ms.toFixed(3)} ms
                    </div>
                  ))}
                </td>
                <td>{pagesOf(pages)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </details>
  );
}
