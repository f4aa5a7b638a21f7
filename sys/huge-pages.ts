/** Pages of hugetlbfs: memory that the administrator has set aside in large pieces. */
import { readFileSync } from 'node:fs';
import { errno } from './errno.js';
import { SysError } from './error.js';
import { checked } from './fd.js';
import * as libc from './libc.js';

/** MFD_HUGETLB with the page's size as a power of two in the upper bits, as MFD_HUGE_2MB has it. */
const MFD_HUGETLB = 4;
const MFD_HUGE_SHIFT = 26;
const MADV_POPULATE_WRITE = 23;

const sizeText = (bytes: number): string =>
  bytes >= 2 ** 30 ? `${bytes / 2 ** 30} GiB` : `${bytes / 2 ** 20} MiB`;

/** memfd_create's flags for pages of this size, in bytes. */
export const hugePageFlags = (pageBytes: number): number =>
  MFD_HUGETLB | (Math.log2(pageBytes) << MFD_HUGE_SHIFT);

const folderOf = (pageBytes: number): string => `/sys/kernel/mm/hugepages/hugepages-${pageBytes / 1024}kB`;

/** Undefined if the host does not say. */
function countOf(pageBytes: number, name: string): number | undefined {
  try {
    return Number(readFileSync(`${folderOf(pageBytes)}/${name}`, 'utf8'));
  } catch {
    return undefined;
  }
}

/** The kernel's default size, which `vm.nr_hugepages` counts. */
function isDefaultSize(pageBytes: number): boolean {
  try {
    return readFileSync('/proc/meminfo', 'utf8').includes(
      `Hugepagesize: ${String(pageBytes / 1024).padStart(7)} kB`,
    );
  } catch {
    return false;
  }
}

/** How many pages are needed and there, and the command that makes room for the rest. */
export function hugePageHint(bytes: number, pageBytes: number): string {
  const wanted = bytes / pageBytes;
  const [all, free, reserved] = ['nr_hugepages', 'free_hugepages', 'resv_hugepages'].map((name) =>
    countOf(pageBytes, name),
  );
  if (all === undefined || free === undefined || reserved === undefined)
    return `this host has no huge pages of ${sizeText(pageBytes)}: ls /sys/kernel/mm/hugepages lists its sizes`;
  const available = Math.max(0, free - reserved);
  const short = `${wanted} huge pages of ${sizeText(pageBytes)} are needed, and ${available} are free`;
  if (available >= wanted)
    return `${short}: a limit of this process's control group (hugetlb.*.max), or a NUMA node without them, is in the way`;
  const number = all + wanted - available;
  const command = isDefaultSize(pageBytes)
    ? `sysctl vm.nr_hugepages=${number}`
    : `echo ${number} > ${folderOf(pageBytes)}/nr_hugepages`;
  const boot =
    pageBytes >= 2 ** 30 ? `, or hugepagesz=1G hugepages=${number} on the host kernel's command line` : '';
  return `${short}: as root, ${command}${boot}; then read it, as it is less if memory is fragmented`;
}

/**
 * Makes all pages of a mapping of hugetlbfs now: a later access could not fail but by a signal that ends the process, as where a
 * control group limits them. Kernels before 5.14 cannot (EINVAL): there the reservation that mmap(2) made must do.
 * @throws SysError EFAULT, ENOMEM if there are too few
 */
export function populateHugePages(address: number, bytes: number, pageBytes: number, target: string): void {
  const result = libc.madvise(address, bytes, MADV_POPULATE_WRITE);
  if (result === -errno.EINVAL) return;
  checked(result, 'madvise MADV_POPULATE_WRITE', target, hugePageHint(bytes, pageBytes));
}

/** @throws SysError EINVAL unless whole pages of this size are asked for, and it is a power of two */
export function checkHugePages(bytes: number, pageBytes: number, target: string): void {
  if (Number.isInteger(Math.log2(pageBytes)) && bytes > 0 && bytes % pageBytes === 0) return;
  const hint = `${bytes} bytes is not a multiple of a huge page, ${pageBytes} bytes`;
  throw new SysError({ call: 'memfd_create', target, errno: errno.EINVAL, hint });
}
