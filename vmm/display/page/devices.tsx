import { Attach, Detach } from './controls.js';
import { Counts } from './counts.js';
import type { Device } from './server.js';
import { hex, size } from './units.js';

const sum = (of: readonly { readonly reads: number; readonly writes: number }[]): number =>
  of.reduce((total, { reads, writes }) => total + reads + writes, 0);

/** What is mapped and what is trapped of each BAR, and what the pages have cost. */
function Bars({ name, bars }: { readonly name: string; readonly bars: NonNullable<Device['bars']> }) {
  return (
    <table data-bars={name}>
      <caption>BARs</caption>
      <thead>
        <tr>
          <th scope="col">BAR</th>
          <th scope="col">at</th>
          <th scope="col" class="number">
            bytes
          </th>
          <th scope="col">parts</th>
          <th scope="col">doorbells</th>
          <th scope="col" class="number">
            exits
          </th>
          <th scope="col">exits by page</th>
        </tr>
      </thead>
      <tbody>
        {bars.map(({ label, type, base, bytes, parts, doorbells, exits, otherExits }) => (
          <tr key={label}>
            <th scope="row">
              {label} {type}
            </th>
            <td>
              <code>{base ?? 'off'}</code>
            </td>
            <td class="number">{size(bytes)}</td>
            <td>{parts.map((part) => `${size(part.bytes)} ${part.kind}`).join(', ')}</td>
            <td>{doorbells.length}</td>
            <td class="number" data-count={label}>
              {(sum(exits) + otherExits).toLocaleString('en')}
            </td>
            <td>
              {exits.map((page) => (
                <div key={page.offset}>
                  <code>{hex(page.offset)}</code>: {page.reads.toLocaleString('en')} read,{' '}
                  {page.writes.toLocaleString('en')} written
                </div>
              ))}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function interruptsOf({ mode, gsi, vectors }: NonNullable<Device['interrupts']>): string {
  const masked = vectors.filter(({ isMasked }) => isMasked).length;
  const pending = vectors.filter(({ isPending }) => isPending).length;
  if (mode === 'none') return 'no interrupts enabled';
  if (mode === 'intx') return `INTx, pin ${gsi}`;
  const name = mode === 'msix' ? 'MSI-X' : 'MSI';
  const sent = vectors.flatMap((each) =>
    each.sent === undefined ? [] : `${each.vector}: ${each.sent.toLocaleString('en')}`,
  );
  const counts = sent.length === 0 ? '' : `; sent by vector ${sent.join(', ')}`;
  return `${name}, ${vectors.length} vectors wired, ${masked} masked, ${pending} pending${counts}`;
}

/** The account of the card that a device is a part of. */
function Parent({ name, parent }: { readonly name: string; readonly parent: NonNullable<Device['parent']> }) {
  const left = parent.resources.map((each) => `${each.left} of ${each.total} ${each.unit} ${each.name} left`);
  return (
    <div data-parent={name}>
      part of {parent.name}: {left.join(', ')}; {parent.description}
      <ul>
        {parent.instances.map(({ uuid, type, uses }) => (
          <li key={uuid}>
            {type} <code>{uuid}</code>:{' '}
            {Object.entries(uses)
              .map(([what, use]) => `${what} ${use}`)
              .join(', ')}
          </li>
        ))}
      </ul>
    </div>
  );
}

/** The assigned devices by slot, with their counters, and buttons to attach and detach. */
export function Devices(props: { readonly devices: readonly Device[]; readonly hasEnded: boolean }) {
  const { devices, hasEnded } = props;
  return (
    <details open>
      <summary>PCI bus 0</summary>
      {devices.length === 0 && <p>No device is assigned.</p>}
      <ul class="tree">
        {devices.map(
          ({ slot, name, description, provider, group, cdev, bars, interrupts, parent, ...device }) => (
            <li key={name} data-device={name}>
              <code>{name}</code> {description} {!hasEnded && <Detach slot={slot} name={name} />}
              <div data-where={name}>
                provider {provider}, group {group}, by {device.interface}
                {cdev && `, ${cdev}`}
                {interrupts && `; ${interruptsOf(interrupts)}`}
              </div>
              {parent && <Parent name={name} parent={parent} />}
              <div data-counters={name}>
                <Counts caption="Counters" counts={device.counters} />
              </div>
              {bars && <Bars name={name} bars={bars} />}
            </li>
          ),
        )}
      </ul>
      {!hasEnded && <Attach />}
    </details>
  );
}
