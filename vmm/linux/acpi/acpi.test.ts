import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import * as layout from '../../layout.js';
import { type AcpiOptions, buildAcpi } from './build.js';
import { intxGsi } from './dsdt.js';
import { checksum, Fadt, Rsdp, TableHeader } from './tables.js';

const options: AcpiOptions = {
  base: 0xe_0000n,
  vcpus: 3,
  windows: [layout.PCI_IO_WINDOW, layout.PCI_WINDOW, layout.PCI_WINDOW_64],
  ecam: { base: layout.ECAM_BASE, bytes: layout.ECAM_BYTES },
  buses: 2,
  intxGsis: layout.PCI_INTX_GSIS,
  serialPorts: [0, 1, 2],
  hasI8042: true,
  generationId: 0x1_2345_6780n,
};
const SKIP = 'iasl and acpiexec are not installed (Debian: apt-get install acpica-tools)';

/** Writes all tables to files in a temporary folder. */
function writeTables(acpi = buildAcpi(options)): string {
  const folder = mkdtempSync(join(tmpdir(), 'acpi-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  for (const [signature, bytes] of acpi.tables) writeFileSync(join(folder, `${signature}.aml`), bytes);
  return folder;
}

function run(tool: string, args: readonly string[], cwd: string): string | undefined {
  const done = spawnSync(tool, args, { cwd, encoding: 'utf8' });
  return done.error === undefined ? `${done.stdout}${done.stderr}` : undefined;
}

test('the root pointer leads to every table, and every checksum is correct', () => {
  const { bytes, base, rsdp, tables } = buildAcpi(options);
  const at = (address: bigint) => bytes.subarray(Number(address - base));
  const root = at(rsdp).subarray(0, Rsdp.size);
  expect([checksum(root), checksum(root.subarray(0, 20))]).toEqual([0, 0]);
  const { xsdt_physical_address } = Rsdp.decode(root);
  const read = (address: bigint) => {
    const { signature, length } = TableHeader.decode(at(address));
    const table = at(address).subarray(0, length);
    expect(checksum(table)).toBe(0);
    return { signature: Buffer.from(signature).toString(), body: table.slice(TableHeader.size) };
  };
  const xsdt = read(xsdt_physical_address);
  const listed = [...new BigUint64Array(xsdt.body.buffer)].map(read);
  expect(listed.map(({ signature }) => signature)).toEqual(['FACP', 'APIC', 'MCFG']);
  const fadt = Fadt.decode(listed[0]?.body as Uint8Array);
  expect(read(fadt.Xdsdt).signature).toBe('DSDT');
  expect(fadt.dsdt).toBe(Number(fadt.Xdsdt));
  expect(fadt.facs % 64).toBe(0);
  expect(Buffer.from(at(BigInt(fadt.facs)).subarray(0, 4)).toString()).toBe('FACS');
  expect([...tables.keys()].sort()).toEqual(['APIC', 'DSDT', 'FACP', 'FACS', 'MCFG', 'RSDP', 'XSDT']);
});

test('FADT, FACS and root pointer have the lengths of ACPI 6', () => {
  expect([Fadt.size + TableHeader.size, Rsdp.size, buildAcpi(options).tables.get('FACS')?.length]).toEqual([
    276, 36, 64,
  ]);
});

test('more processors than local APIC entries can address are rejected', () => {
  expect(() => buildAcpi({ ...options, vcpus: 256 })).toThrowError(RangeError);
});

test('adjacent slots do not share an interrupt, and a slot’s four pins are distinct', () => {
  const gsis = (slot: number) => [1, 2, 3, 4].map((pin) => intxGsi(layout.PCI_INTX_GSIS, slot, pin));
  expect(gsis(0)).toEqual([16, 17, 18, 19]);
  expect(gsis(3)).toEqual([19, 16, 17, 18]);
});

test('iasl disassembles every table without an error or a warning', ({ skip }) => {
  const folder = writeTables();
  for (const signature of ['FACP', 'APIC', 'MCFG', 'XSDT', 'FACS', 'DSDT']) {
    const said = run('iasl', ['-d', `${signature}.aml`], folder);
    if (said === undefined) skip(SKIP);
    expect(said, signature).not.toMatch(/error|warning|invalid|unknown/i);
    const source = readFileSync(join(folder, `${signature}.dsl`), 'utf8');
    expect(source, signature).not.toMatch(/invalid|unknown|\*\*\*\*|incorrect/i);
  }
});

test('the DSDT’s disassembly compiles again without an error or a warning', ({ skip }) => {
  const folder = writeTables();
  if (run('iasl', ['-d', 'DSDT.aml'], folder) === undefined) skip(SKIP);
  const said = run('iasl', ['-p', 'again', 'DSDT.dsl'], folder);
  expect(said).toMatch(/0 Errors, 0 Warnings/);
});

/** Evaluates a command with acpiexec. Returns its output on one line. */
function evaluate(folder: string, command: string): string | undefined {
  return run('acpiexec', ['-b', command, 'DSDT.aml'], folder)?.replace(/\s+/g, ' ');
}

test('ACPICA evaluates the host bridge’s resources', ({ skip }) => {
  const said = evaluate(writeTables(), 'resources \\_SB.PCI0');
  if (said === undefined) skip(SKIP);
  expect(said).toMatch(/Resource Type : Bus Number Range.*Address Minimum : 0000 Address Maximum : 0001/);
  expect(said).toMatch(/Address Minimum : 0CF8 Address Maximum : 0CF8 Alignment : 01 Address Length : 08/);
  expect(said).toMatch(/I\/O Range.*Address Minimum : C000 Address Maximum : DFFF/);
  expect(said).toMatch(/Address Minimum : C0000000 Address Maximum : DFFFFFFF/);
  expect(said).toMatch(/Address Minimum : 0000004000000000 Address Maximum : 0000007FFFFFFFFF/);
  expect(said).not.toMatch(/ACPI (Error|Warning)/);
});

test('ACPICA evaluates the serial ports, of which COM1 and COM3 share an interrupt', ({ skip }) => {
  const folder = writeTables();
  const resourcesOf = (name: string) => evaluate(folder, `resources \\_SB.${name}`);
  const com1 = resourcesOf('COM1');
  if (com1 === undefined) skip(SKIP);
  for (const [said, port, irq, sharing] of [
    [com1, '03F8', 4, 'Shared'],
    [resourcesOf('COM2'), '02F8', 3, 'Exclusive'],
    [resourcesOf('COM3'), '03E8', 4, 'Shared'],
  ] as const) {
    expect(said).toMatch(new RegExp(`Address Minimum : ${port}.*Address Length : 08`));
    expect(said).toMatch(new RegExp(`Triggering : Edge Polarity : ActiveHigh Sharing : ${sharing}`));
    expect(said).toMatch(new RegExp(`Interrupt List : 0?${irq}\\b`));
    expect(said).not.toMatch(/ACPI (Error|Warning)/);
  }
  expect(resourcesOf('COM4')).toMatch(/AE_NOT_FOUND/);
});

test('ACPICA evaluates the interrupt routing of every slot and pin', ({ skip }) => {
  const said = evaluate(writeTables(), 'execute \\_SB.PCI0._PRT');
  if (said === undefined) skip(SKIP);
  const entries = [
    ...(said as string).matchAll(
      /\[Integer\] = ([0-9A-F]{16}) \[Integer\] = ([0-9A-F]{16}) \[Integer\] = ([0-9A-F]{16}) \[Integer\] = ([0-9A-F]{16})/g,
    ),
  ].map((match) => match.slice(1).map((word) => Number.parseInt(word, 16)));
  expect(entries).toHaveLength(128);
  for (const [address, pin, source, gsi] of entries as [number, number, number, number][]) {
    expect([address & 0xffff, source]).toEqual([0xffff, 0]);
    expect(gsi).toBe(intxGsi(layout.PCI_INTX_GSIS, address >> 16, pin + 1));
  }
});

test('ACPICA finds the generation ID by its names, and its address in halves', ({ skip }) => {
  const folder = writeTables();
  const said = evaluate(folder, 'execute \\_SB.VGEN.ADDR');
  if (said === undefined) skip(SKIP);
  expect(said).toMatch(/\[Integer\] = 0000000023456780 \[Integer\] = 0000000000000001/);
  // ACPICA turns names into capitals.
  expect(evaluate(folder, 'execute \\_SB.VGEN._CID')).toMatch(/"VM_GEN_COUNTER"/);
  expect(evaluate(folder, 'execute \\_SB.VGEN._DDN')).toMatch(/"VM_Gen_Counter"/);
});

test.for(['\\_GPE._E01', '\\_GPE._E02', '\\_SB.PCI0.S03._EJ0 1', '\\_SB.PCI0.S1F._OST 3 0x82 (00)'])(
  'ACPICA runs %s without an error',
  (command, { skip }) => {
    const said = evaluate(writeTables(), `execute ${command}`);
    if (said === undefined) skip(SKIP);
    expect(said).toMatch(/Evaluating/);
    expect(said).not.toMatch(/AE_(?!OK)[A-Z_]+|ACPI (Error|Warning)|Excess/);
  },
);

test('_OST writes slot, event and status to the register that the machine reads', ({ skip }) => {
  const report = 'execute \\_SB.PCI0.S1F._OST 0x103 0x82 (00)';
  const said = evaluate(writeTables(), `${report};execute \\_SB.PCI0.HPST`);
  if (said === undefined) skip(SKIP);
  expect(said).toMatch(/\[Integer\] = 000000008201031F/);
});
