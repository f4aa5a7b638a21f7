import type { Counters } from '../../protocol.js';
import { Counts } from './counts.js';

/** The assigned devices with their counters. */
export function Devices({ devices }: { readonly devices: Counters['devices'] }) {
  return (
    <details open>
      <summary>Devices</summary>
      {devices.length === 0 && <p>No device is assigned.</p>}
      <ul class="tree" aria-label="PCI bus 0">
        {devices.map(({ name, description, counters }) => (
          <li key={name} data-device={name}>
            <code>{name}</code> {description}
            <Counts caption="" counts={counters} />
          </li>
        ))}
      </ul>
    </details>
  );
}
