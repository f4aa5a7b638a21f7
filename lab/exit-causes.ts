/** Exits to a VMM by cause, as L1's kernel counted them. @see exit-causes in lab/l1/commands.sh */

/** What a guest accesses by ports, on both VMMs. */
const PORTS: readonly (readonly [first: number, last: number, name: string])[] = [
  [0x20, 0x21, 'PIC'],
  [0x40, 0x43, 'PIT'],
  [0x2e, 0x2f, 'Super I/O'],
  [0x4e, 0x4f, 'Super I/O'],
  [0x60, 0x64, 'i8042'],
  [0x70, 0x71, 'RTC'],
  [0x80, 0x80, 'POST code'],
  [0x92, 0x92, 'port A'],
  [0xa0, 0xa1, 'PIC'],
  [0xb2, 0xb3, 'APM'],
  [0x2e8, 0x2ef, 'COM4'],
  [0x2f8, 0x2ff, 'COM2'],
  [0x3b0, 0x3df, 'VGA'],
  [0x3e8, 0x3ef, 'COM3'],
  [0x3f8, 0x3ff, 'COM1'],
  [0x510, 0x51b, 'fw_cfg'],
  [0x600, 0x67f, 'ACPI PM'],
  [0xcc0, 0xcd7, 'PCI hotplug'],
  [0xcf8, 0xcff, 'PCI ports'],
];

const PAGE = 0x1000n;
const [VGA_START, VGA_END] = [0xa_0000n, 0xc_0000n];
/** Where both VMMs place BARs. */
const [WINDOW_START, WINDOW_END] = [0xc000_0000n, 0xfec0_0000n];
const [IOAPIC, HPET] = [0xfec0_0000n, 0xfed0_0000n];
/** Of the ECAM windows of both VMMs, 256 MiB each. */
const ECAMS = [0xb000_0000n, 0xe000_0000n];
const ECAM_BYTES = 256n << 20n;

const portName = (port: number): string =>
  PORTS.find(([first, last]) => port >= first && port <= last)?.[2] ?? `port 0x${port.toString(16)}`;

function memoryName(address: bigint): string {
  if (address >= VGA_START && address < VGA_END) return 'VGA';
  if (ECAMS.some((start) => address >= start && address < start + ECAM_BYTES)) return 'PCI ECAM';
  if (address >= WINDOW_START && address < WINDOW_END) return 'BARs and ROMs';
  const page = address - (address % PAGE);
  if (page === IOAPIC) return 'I/O APIC';
  if (page === HPET) return 'HPET';
  return `memory at 0x${page.toString(16)}`;
}

/** The most frequent cause comes first. @throws Error if the output has no exit, or the kernel lost some */
export function parseExitCauses(output: string): ReadonlyMap<string, number> {
  if (/^LAB-EXIT lost/m.test(output)) throw new Error('L1’s trace buffer was too small for all exits');
  const causes = new Map<string, number>();
  for (const [, kind = '', value = '', count] of output.matchAll(/^LAB-EXIT (\S+) (\w+) (\d+)\r?$/gm)) {
    const info = BigInt(/^0x/.test(value) ? value : `0x${value}`);
    const name =
      kind === 'port'
        ? portName(Number((info >> 16n) & 0xffffn))
        : kind === 'memory'
          ? memoryName(info)
          : kind;
    causes.set(name, (causes.get(name) ?? 0) + Number(count));
  }
  if (causes.size === 0) throw new Error(`L1's kernel counted no exit\n${output}`);
  return new Map([...causes].sort(([, a], [, b]) => b - a));
}
