/** BARs of a PCI function, from the `resource` attribute: a line `start end flags` for each resource. */

/** A BAR or the expansion ROM of a PCI function. */
export interface PciBar {
  /** 0 to 5, or `rom`. A 64-bit BAR takes the next index as well. */
  readonly index: number | 'rom';
  /** Memory or I/O ports. */
  readonly kind: 'memory' | 'io';
  /** In bytes. */
  readonly size: number;
  /** Its address on the host, in hexadecimal: `0xfebc0000`; undefined if the kernel found no room for it. */
  readonly start: string | undefined;
  /** Whether its address has 64 bits. */
  readonly is64Bit: boolean;
  /** Whether reads from it have no side effects. */
  readonly isPrefetchable: boolean;
}

// linux/ioport.h
const IORESOURCE_IO = 0x100n;
const IORESOURCE_MEM = 0x200n;
const IORESOURCE_PREFETCH = 0x2000n;
const IORESOURCE_MEM_64 = 0x10_0000n;
const IORESOURCE_UNSET = 0x2000_0000n;

const PCI_ROM_RESOURCE = 6;
const LINE = /^0x([0-9a-f]{16}) 0x([0-9a-f]{16}) 0x([0-9a-f]{16})$/;

/**
 * The BARs and the ROM. What follows them in the attribute, the VFs' BARs and a bridge's windows, is left out: which it
 * is depends on how the kernel was built.
 */
export function parsePciBars(resource: string): PciBar[] {
  const bars: PciBar[] = [];
  for (const [index, line] of resource
    .split('\n')
    .slice(0, PCI_ROM_RESOURCE + 1)
    .entries()) {
    const match = LINE.exec(line);
    if (match === null) continue;
    const [start, end, flags] = match.slice(1).map((digits) => BigInt(`0x${digits}`)) as [
      bigint,
      bigint,
      bigint,
    ];
    if ((flags & (IORESOURCE_IO | IORESOURCE_MEM)) === 0n || end < start) continue;
    bars.push({
      index: index === PCI_ROM_RESOURCE ? 'rom' : index,
      kind: (flags & IORESOURCE_IO) === 0n ? 'memory' : 'io',
      size: Number(end - start + 1n),
      start: (flags & IORESOURCE_UNSET) === 0n ? `0x${start.toString(16)}` : undefined,
      is64Bit: (flags & IORESOURCE_MEM_64) !== 0n,
      isPrefetchable: (flags & IORESOURCE_PREFETCH) !== 0n,
    });
  }
  return bars;
}
