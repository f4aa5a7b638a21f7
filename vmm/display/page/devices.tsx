import type { DeviceState } from '../../inspection.js';
import type { MachineStatus } from '../status.js';
import { Attach, Detach } from './controls.js';
import { Counts } from './counts.js';
import { hex, type Json, size } from './json.js';

/** PCI slot of `00:03.0 virtio-net`. */
const slotOf = (name: string): number => Number.parseInt(name.slice(3, 5), 16);

const sum = (of: readonly { readonly reads: number; readonly writes: number }[]): number =>
  of.reduce((total, { reads, writes }) => total + reads + writes, 0);

/** What is mapped and what is trapped of each BAR, and what the pages have cost. */
function Bars({
  name,
  bars,
}: {
  readonly name: string;
  readonly bars: NonNullable<Json<DeviceState['bars']>>;
}) {
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

function interruptsOf({ mode, gsi, vectors }: NonNullable<DeviceState['interrupts']>): string {
  const masked = vectors.filter(({ isMasked }) => isMasked).length;
  const pending = vectors.filter(({ isPending }) => isPending).length;
  if (mode === 'none') return 'no interrupts enabled';
  if (mode === 'intx') return `INTx, pin ${gsi}`;
  const name = mode === 'msix' ? 'MSI-X' : 'MSI';
  return `${name}, ${vectors.length} vectors wired, ${masked} masked, ${pending} pending`;
}

/** The assigned devices by slot, with their counters, and buttons to attach and detach. */
export function Devices({ status }: { readonly status: Json<MachineStatus> }) {
  const { counters, devices, controls } = status;
  if (counters === undefined) return null;
  return (
    <details open>
      <summary>PCI bus 0</summary>
      {counters.devices.length === 0 && <p>No device is assigned.</p>}
      <ul class="tree">
        {counters.devices.map(({ name, description, counters: counts }) => {
          const slot = slotOf(name);
          const inspected = devices?.find((device) => device.name === name);
          return (
            <li key={name} data-device={name}>
              <code>{name}</code> {description}{' '}
              {controls.includes('detach') && <Detach slot={slot} name={name} />}
              {inspected && (
                <div data-where={name}>
                  provider {inspected.provider}, group {inspected.group}, by {inspected.interface}
                  {inspected.interrupts && `; ${interruptsOf(inspected.interrupts)}`}
                </div>
              )}
              <div data-counters={name}>
                <Counts caption="Counters" counts={counts} />
              </div>
              {inspected?.bars && <Bars name={name} bars={inspected.bars} />}
            </li>
          );
        })}
      </ul>
      {controls.includes('attach') && <Attach />}
    </details>
  );
}
