/** Answers of the API as text for people. */
import type { z } from 'zod';
import { parentText, useLines } from '../parent-text.js';
import type {
  countersSchema,
  devicesSchema,
  infoSchema,
  memorySchema,
  movedSchema,
  savedSchema,
  timelineSchema,
} from './schemas.js';

/** Columns as wide as their longest cell, two blanks between them. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `64 MiB`, `20 KiB` */
export function bytesText(bytes: number): string {
  for (const [shift, unit] of [
    [30, 'GiB'],
    [20, 'MiB'],
    [10, 'KiB'],
  ] as const) {
    const size = 2 ** shift;
    if (bytes >= size && (bytes % size === 0 || bytes >= 10 * size))
      return `${Math.round(bytes / size)} ${unit}`;
  }
  return `${bytes} B`;
}

const named = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ') || 'none';

export function infoText(info: z.output<typeof infoSchema>): string {
  const { config } = info;
  const how = info.outcome?.kind ?? info.failure;
  const end = how === undefined ? '' : `: ${how}`;
  return table([
    ['state', `${info.state}${end}`],
    ['uptime', `${(info.uptimeMs / 1000).toFixed(1)} s, ${info.restarts} restarts`],
    ['memory', bytesText(config.memory)],
    ['vcpus', String(config.vcpus)],
    ['devices', config.devices.map(({ address }) => address).join(', ') || 'none'],
    ['process', `${info.pid}, tsvisor ${info.version}`],
  ]);
}

export function devicesText(devices: z.output<typeof devicesSchema>): string {
  if (devices.length === 0) return 'no devices';
  return devices
    .flatMap((device) => [
      `${device.name}: ${device.description}`,
      `  ${device.provider}, group ${device.group}, by ${device.interface}${device.cdev === undefined ? '' : `, ${device.cdev}`}`,
      `  counters: ${named(device.counters)}`,
      ...parentLines(device.parent),
      ...interruptLines(device.interrupts),
      ...(device.bars ?? []).flatMap(barLines),
      ...(device.virtualFunctions ?? []).flatMap(({ name, interrupts, bars }) =>
        [name, ...interruptLines(interrupts), ...bars.flatMap(barLines)].map((line) => `  ${line}`),
      ),
    ])
    .join('\n');
}

type Device = z.output<typeof devicesSchema>[number];

function parentLines(parent: Device['parent']): string[] {
  if (parent === undefined) return [];
  return [
    `  part of ${parent.name}: ${parentText(parent)}`,
    ...useLines(parent).map((line) => `    ${line}`),
  ];
}

function interruptLines(interrupts: Device['interrupts']): string[] {
  if (interrupts === undefined) return [];
  const { mode, gsi, vectors } = interrupts;
  const pin = gsi === undefined ? '' : `, INTx is pin ${gsi}`;
  const masked = vectors.filter(({ isMasked }) => isMasked).length;
  const sent = vectors.flatMap((each) => (each.sent === undefined ? [] : `${each.vector}: ${each.sent}`));
  const counts = sent.length === 0 ? '' : `; sent by vector ${sent.join(', ')}`;
  return [`  interrupts: ${mode}, ${vectors.length} vectors wired, ${masked} masked${pin}${counts}`];
}

function barLines(bar: NonNullable<Device['bars']>[number]): string[] {
  const at = bar.base === undefined ? 'not decoded' : `at ${bar.base}`;
  const parts = bar.parts.map(
    ({ offset, bytes, kind }) => `0x${offset.toString(16)} ${bytesText(bytes)} ${kind}`,
  );
  const exits = bar.exits.map(
    ({ offset, reads, writes }) =>
      `    exits of page 0x${offset.toString(16)}: ${reads} reads, ${writes} writes`,
  );
  return [
    `  ${bar.label} ${bytesText(bar.bytes)} ${bar.type} ${at}: ${parts.join('; ') || 'a ROM'}; ${bar.doorbells.length} doorbells`,
    ...exits,
    ...(bar.otherExits === 0 ? [] : [`    exits of other pages: ${bar.otherExits}`]),
  ];
}

export function mapsText(ranges: z.output<typeof memorySchema>): string {
  const head = ['GPA', 'SIZE', 'HVA', 'KIND', 'SLOT ms', 'DMA: IOVA, ms', 'PAGES', 'NAME'];
  const rows = ranges.map((range) => [
    range.gpa,
    bytesText(range.bytes),
    range.hva,
    range.kind,
    range.ms.toFixed(2),
    range.dma.map(({ space, iova, ms }) => `${space} ${iova} ${ms.toFixed(2)}`).join('; ') || 'none',
    pagesText(range.pages),
    range.name,
  ]);
  return table([head, ...rows]);
}

function pagesText(pages: z.output<typeof memorySchema>[number]['pages']): string {
  if (pages === undefined) return 'unknown';
  const huge = pages.hugeBytes === 0 ? '' : `, ${bytesText(pages.hugeBytes)} huge`;
  return `${bytesText(pages.pageBytes)}${huge}`;
}

export function countersText({ exits, accesses, devices }: z.output<typeof countersSchema>): string {
  return table([
    ['exits', named(exits)],
    ['accesses', named(accesses)],
    ...devices.map(({ name, counters }) => [name, named(counters)]),
  ]);
}

export function snapshotText({ folder, stateBytes, memoryBytes, ms }: z.output<typeof savedSchema>): string {
  const parts = `${bytesText(memoryBytes)} of memory, ${bytesText(stateBytes)} of state`;
  return `saved to ${folder}: ${parts}; the guest stood still for ${ms.toFixed(0)} ms`;
}

export function timelineText({ events, dropped }: z.output<typeof timelineSchema>): string {
  const lines = events.map(({ at, what, seq, cause, details }) => {
    const rest = Object.entries(details).map(([name, value]) => `${name}=${String(value)}`);
    const order = seq === 0 ? '' : ` #${seq}${cause === 0 ? '' : ` of #${cause}`}`;
    return `${at.toFixed(3).padStart(12)} ${what}${order} ${rest.join(' ')}`.trimEnd();
  });
  if (dropped > 0) lines.push(`${dropped} events in the middle were left out`);
  return lines.join('\n');
}

/** What a move took. */
export const movedText = ({ rounds, sentBytes, downtimeMs, ms }: z.output<typeof movedSchema>): string =>
  `moved in ${Math.round(ms)} ms and ${rounds} rounds: ${(sentBytes / 2 ** 20).toFixed(1)} MiB, ${Math.round(downtimeMs)} ms of which the guest stood still`;
