/**
 * Compares uAPI tables with this machine's C headers: a program generated from the tables prints what the compiler
 * computes for each structure, field, ioctl number and constant.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Request } from '../ioctl.js';
import type { Fields, Layout } from '../struct.js';

/** What to compare. */
export interface HeaderTables {
  /** Headers that declare the rows: `linux/kvm.h`. */
  readonly headers: readonly string[];
  /**
   * Modules (`import * as uapi`) or tables. Exported layouts, requests and numbers under their C names become rows;
   * other exports are ignored.
   */
  readonly tables: readonly Readonly<Record<string, unknown>>[];
  /** First kernel version whose header has a constant. Layouts and requests carry their own. */
  readonly constantsSince?: Readonly<Record<string, string>>;
}

/** The result of {@link checkHeaders}. */
export interface HeaderCheck {
  /** Why nothing was compared: no compiler or no header. */
  readonly unavailable?: string;
  /** Number of values compared. */
  readonly compared: number;
  /** Rows that need newer headers than those installed, with the version. */
  readonly newer: readonly string[];
  /** `sizeof(struct kvm_regs): 144 here, 152 in the header`; empty if all rows match. */
  readonly differences: readonly string[];
}

interface Row {
  /** The export that it comes from, by C name. */
  readonly owner: string;
  readonly expression: string;
  readonly ours: bigint;
  readonly since: string | undefined;
}

const isLayout = (value: unknown): value is Layout<Fields> =>
  typeof value === 'object' && value !== null && 'cName' in value && 'offsets' in value;
const isRequest = (value: unknown): value is Request =>
  typeof value === 'object' && value !== null && 'number' in value && 'hints' in value && 'name' in value;

function layoutRows(layout: Layout<Fields>, rows: Map<string, Row>): void {
  const type = layout.cName;
  const { since } = layout;
  const add = (expression: string, ours: number) =>
    rows.set(expression, { owner: type, expression, ours: BigInt(ours), since });
  add(`sizeof(${type})`, layout.size);
  for (const [name, field] of Object.entries(layout.fields)) {
    add(`offsetof(${type}, ${name})`, layout.offsets[name] as number);
    const element = Array.isArray(field) ? field[0] : field;
    if (isLayout(element)) layoutRows(element, rows);
    add(`sizeof(((${type} *)0)->${name})`, fieldSize(field));
  }
}

const scalarSizes: Readonly<Record<string, number>> = { 8: 1, 16: 2, 32: 4, 64: 8 };
function fieldSize(field: unknown): number {
  if (Array.isArray(field)) return fieldSize(field[0]) * (field[1] as number);
  if (isLayout(field)) return field.size;
  return scalarSizes[String(field).slice(1)] as number;
}

function rowsOf(tables: HeaderTables): Row[] {
  const rows = new Map<string, Row>();
  const addName = (name: string, ours: bigint, since: string | undefined) =>
    rows.set(name, { owner: name, expression: name, ours, since });
  for (const table of tables.tables) {
    for (const [name, value] of Object.entries(table)) {
      if (isLayout(value)) layoutRows(value, rows);
      else if (isRequest(value)) addName(value.name, BigInt(value.number), value.since);
      else if (typeof value === 'number' || typeof value === 'bigint')
        addName(name, BigInt(value), tables.constantsSince?.[name]);
    }
  }
  return [...rows.values()];
}

/** KERNEL_VERSION of a version string such as `6.8`. */
function versionCode(version: string): number {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  return major * 65536 + minor * 256 + patch;
}

const versionName = (code: number): string => `${code >> 16}.${(code >> 8) & 0xff}`;

/**
 * Compiles and runs the comparison with gcc.
 * @throws Error with the compiler's output if the header lacks a name
 */
export function checkHeaders(tables: HeaderTables): HeaderCheck {
  const includes = ['linux/version.h', ...tables.headers].map((header) => `#include <${header}>\n`).join('');
  const preprocessed = spawnSync('gcc', ['-E', '-P', '-x', 'c', '-'], {
    input: `${includes}installed_version = LINUX_VERSION_CODE\n`,
    encoding: 'utf8',
  });
  const nothing = { compared: 0, newer: [], differences: [] };
  if (preprocessed.error !== undefined) return { ...nothing, unavailable: 'gcc is not installed' };
  if (preprocessed.status !== 0) {
    return { ...nothing, unavailable: preprocessed.stderr.split('\n')[0] ?? 'a header is missing' };
  }
  const installed = Number(/installed_version = (\d+)/.exec(preprocessed.stdout)?.[1]);
  const rows = rowsOf(tables);
  const isNewer = (row: Row): boolean => row.since !== undefined && versionCode(row.since) > installed;
  const compared = rows.filter((row) => !isNewer(row));
  const theirs = evaluate(
    includes,
    compared.map((row) => row.expression),
  );
  const differences: string[] = [];
  compared.forEach((row, i) => {
    const value = theirs[i] as bigint;
    if (BigInt.asUintN(64, row.ours) !== value)
      differences.push(`${row.expression}: ${row.ours} here, ${value} in the header`);
  });
  const newer = new Set(
    rows
      .filter(isNewer)
      .map((row) => `${row.owner} needs headers of ${row.since}, here are ${versionName(installed)}`),
  );
  return { compared: compared.length, newer: [...newer], differences };
}

function evaluate(includes: string, expressions: readonly string[]): bigint[] {
  const directory = mkdtempSync(join(tmpdir(), 'header-check-'));
  try {
    const lines = expressions.map(
      (expression) => `  printf("%llu\\n", (unsigned long long)(${expression}));\n`,
    );
    const source = join(directory, 'check.c');
    const program = join(directory, 'check');
    writeFileSync(
      source,
      `#include <stddef.h>\n#include <stdio.h>\n${includes}int main(void) {\n${lines.join('')}  return 0;\n}\n`,
    );
    const compiled = spawnSync('gcc', ['-w', '-o', program, source], { encoding: 'utf8' });
    if (compiled.status !== 0) throw new Error(`the headers do not know all names:\n${compiled.stderr}`);
    const run = spawnSync(program, [], { encoding: 'utf8' });
    return run.stdout.trimEnd().split('\n').map(BigInt);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
