/** What a guest is made of, as it lies on this machine: QEMU, a kernel, busybox. */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
} from 'node:fs';
import { delimiter, join } from 'node:path';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';

const refuse = (target: string, code: number, hint: string): SysError =>
  new SysError({ call: 'bootGuest', target, errno: code, hint });

/** The bytes of a file that someone named. @throws SysError with the file system's errno, and `hint` */
export function readNamed(path: string, hint: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).errno ?? -errno.EIO;
    throw refuse(path, Math.abs(code), hint);
  }
}

const inPath = (program: string): string | undefined =>
  (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });

const QEMU = 'qemu-system-x86_64';
export const QEMU_HINT =
  "install QEMU 10.1 or newer with vfio-user-pci (Debian's since sid's 11), and name it by `qemu` or TSVISOR_QEMU";

/** The command that starts QEMU: what is given, TSVISOR_QEMU, or the one in PATH. @throws SysError ENOENT */
export function findQemu(given: string | readonly string[] | undefined): readonly string[] {
  const named = given ?? (process.env.TSVISOR_QEMU || inPath(QEMU));
  if (named === undefined || named.length === 0) throw refuse(QEMU, errno.ENOENT, QEMU_HINT);
  const command = typeof named === 'string' ? [named] : named;
  const [program = ''] = command;
  if (program.includes('/') ? !existsSync(program) : inPath(program) === undefined)
    throw refuse(program, errno.ENOENT, QEMU_HINT);
  return command;
}

const KERNEL_HINT =
  'name a kernel that you may read by `kernel` or TSVISOR_KERNEL: a bzImage or vmlinux, as in a linux-image package';

/** The numbers in a name, for sorting: 6.9 before 6.12. */
const byVersion = (a: string, b: string): number => a.localeCompare(b, 'en', { numeric: true });

/** Path of the kernel: what is given, TSVISOR_KERNEL, or the newest of /boot. @throws SysError ENOENT, EACCES */
export function findKernel(given: string | undefined): string {
  const installed = () =>
    existsSync('/boot') ? readdirSync('/boot').filter((name) => name.startsWith('vmlinuz-')) : [];
  const newest = (): string | undefined => installed().sort(byVersion).at(-1);
  const path = given ?? (process.env.TSVISOR_KERNEL || (newest() && `/boot/${newest()}`));
  if (!path) throw refuse('/boot/vmlinuz-*', errno.ENOENT, KERNEL_HINT);
  try {
    accessSync(path, constants.R_OK);
  } catch (error) {
    throw refuse(path, Math.abs((error as NodeJS.ErrnoException).errno ?? errno.ENOENT), KERNEL_HINT);
  }
  return path;
}

/** Of a bzImage. @see Documentation/arch/x86/boot.rst */
const SETUP_MAGIC_AT = 0x202;
const KERNEL_VERSION_AT = 0x20e;
const RELEASE = /^[\w.+~-]+/;

/** The release of a kernel's file, such as 6.12.95+deb13-amd64; undefined if the file does not say. */
export function kernelRelease(path: string): string | undefined {
  const head = Buffer.alloc(64 << 10);
  const file = openSync(path, 'r');
  try {
    readSync(file, head, 0, head.length, 0);
  } finally {
    closeSync(file);
  }
  if (head.toString('latin1', SETUP_MAGIC_AT, SETUP_MAGIC_AT + 4) === 'HdrS') {
    const at = head.readUInt16LE(KERNEL_VERSION_AT) + 0x200;
    return RELEASE.exec(head.toString('latin1', at, at + 128))?.[0];
  }
  const image = readFileSync(path);
  const banner = 'Linux version ';
  const at = image.indexOf(banner);
  return at < 0 ? undefined : RELEASE.exec(image.toString('latin1', at + banner.length, at + 128))?.[0];
}

const BUSYBOX_HINT = 'install busybox-static, or name a static busybox by `busybox` or TSVISOR_BUSYBOX';
const PT_INTERP = 3;

/** Path of a static busybox: what is given, TSVISOR_BUSYBOX, or the one in PATH. @throws SysError ENOENT, ENOEXEC */
export function findBusybox(given: string | undefined): string {
  const path = given ?? (process.env.TSVISOR_BUSYBOX || inPath('busybox'));
  if (!path) throw refuse('busybox', errno.ENOENT, BUSYBOX_HINT);
  if (!isStatic(readNamed(path, BUSYBOX_HINT)))
    throw refuse(path, errno.ENOEXEC, `it is no static program of x86-64: ${BUSYBOX_HINT}`);
  return path;
}

/** Whether an ELF64 file needs no loader: an initramfs has no libraries. */
function isStatic(elf: Buffer): boolean {
  if (elf.length < 64 || elf.toString('latin1', 0, 4) !== '\u007fELF' || elf[4] !== 2) return false;
  const [at, size, count] = [Number(elf.readBigUInt64LE(32)), elf.readUInt16LE(54), elf.readUInt16LE(56)];
  for (let i = 0; i < count; i++) {
    const header = at + i * size;
    if (header + 4 > elf.length || elf.readUInt32LE(header) === PT_INTERP) return false;
  }
  return true;
}
