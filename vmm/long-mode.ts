import { LONG_MODE_BYTES, longModeSregs, longModeTables } from '../kvm/long-mode.js';
import type { MemoryMap } from './assign/memory-map.js';

/** Guest physical addresses of what the machine prepares below the image, which starts at 1 MiB. */
const TABLES = 0x1000n;
const COMMAND_LINE = 0x8000n;
const COMMAND_LINE_BYTES = 0x1000;

/** System registers that go with {@link prepareLongMode}: fields of struct kvm_sregs. */
export const bootSregs = () => longModeSregs(TABLES);

/** Writes page tables, GDT and command line into the guest's low memory; returns the command line's address. */
export function prepareLongMode(memory: MemoryMap, commandLine: string): bigint {
  memory.ram(TABLES, LONG_MODE_BYTES).set(longModeTables(TABLES));
  const text = new TextEncoder().encode(`${commandLine}\0`);
  if (text.length > COMMAND_LINE_BYTES)
    throw new RangeError(`the command line has ${text.length} bytes of ${COMMAND_LINE_BYTES}`);
  memory.ram(COMMAND_LINE, text.length).set(text);
  return COMMAND_LINE;
}
