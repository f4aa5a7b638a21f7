/** Names of the places where a mutation can happen, which are the same in each run. */
import {
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
} from '../../vfio/uapi.js';
import type { MutationKind } from './options.js';

/** Calls that can fail, by the number in a {@link Place}. */
export const CALLS = ['read', 'write', 'setIrqs', 'reset'] as const;
export type CallName = (typeof CALLS)[number];

/**
 * Where something can be mutated, in numbers, as most places never need their name:
 * value, write, delay: region, offset, bytes. dma: 0, IOVA, bytes. interrupt: index, vector, 0.
 * error: call (of {@link CALLS}) and region as `call * CALL + region`, offset, bytes.
 */
export interface Place {
  readonly a: number;
  readonly b: number;
  readonly c: number;
}
/** Above all region indexes of VFIO's device file. */
export const CALL = 2 ** 16;

const IRQS: Readonly<Record<number, string>> = {
  [VFIO_PCI_INTX_IRQ_INDEX]: 'intx',
  [VFIO_PCI_MSI_IRQ_INDEX]: 'msi',
  [VFIO_PCI_MSIX_IRQ_INDEX]: 'msix',
};

/** `bar0`, `rom`, `config`, or the number of another region. */
export function regionName(index: number): string {
  if (index <= VFIO_PCI_BAR5_REGION_INDEX) return `bar${index}`;
  if (index === VFIO_PCI_ROM_REGION_INDEX) return 'rom';
  return index === VFIO_PCI_CONFIG_REGION_INDEX ? 'config' : `${index}`;
}

/** The opposite of {@link regionName}; undefined for no name of a region. */
export function regionNumber(name: string): number | undefined {
  if (name === 'rom') return VFIO_PCI_ROM_REGION_INDEX;
  if (name === 'config') return VFIO_PCI_CONFIG_REGION_INDEX;
  const [, digits] = /^(?:bar)?(\d{1,4})$/.exec(name) ?? [];
  const number = digits === undefined ? undefined : Number(digits);
  if (number !== undefined && name.startsWith('bar') && number > VFIO_PCI_BAR5_REGION_INDEX) return undefined;
  return number;
}

const accessName = (region: number, offset: number, bytes: number): string =>
  `${regionName(region)}.0x${offset.toString(16)}.${bytes}`;

/**
 * `value/bar0.0x14.4#3`: the third read of four bytes at 0x14 of BAR 0. Has no character that separates options on a command
 * line.
 */
export function labelOf(kind: MutationKind, { a, b, c }: Place, nth: number): string {
  return `${kind}/${placeName(kind, a, b, c)}#${nth}`;
}

function placeName(kind: MutationKind, a: number, b: number, c: number): string {
  switch (kind) {
    case 'dma':
      return `0x${b.toString(16)}.${c}`;
    case 'interrupt':
      return `${IRQS[a] ?? a}.${b}`;
    case 'error': {
      const call = CALLS[Math.floor(a / CALL)] ?? 'call';
      if (call === 'reset') return call;
      if (call === 'setIrqs') return `${call}.${IRQS[a % CALL] ?? a % CALL}`;
      return `${call}.${accessName(a % CALL, b, c)}`;
    }
    default:
      return accessName(a, b, c);
  }
}
