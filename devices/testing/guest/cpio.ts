/** An initramfs entry: a file, a folder (no data, mode S_IFDIR) or a symbolic link (data is the target). */
export interface CpioEntry {
  /** Relative, without a leading slash. */
  readonly path: string;
  /** Type and permission bits as in `struct stat`. */
  readonly mode: number;
  readonly data?: Uint8Array;
}

export const S_IFDIR = 0o040000;
export const S_IFREG = 0o100000;
export const S_IFLNK = 0o120000;

const padTo4 = (bytes: number): Buffer => Buffer.alloc(-bytes & 3);

/** An archive in the kernel's format ("newc"), with owner 0 and time 0: equal input gives equal bytes. */
export function cpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  const add = (inode: number, { path, mode, data = Buffer.alloc(0) }: CpioEntry): void => {
    const name = Buffer.from(`${path}\0`);
    const links = (mode & S_IFDIR) === S_IFDIR ? 2 : 1;
    const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    parts.push(Buffer.from(header), name, padTo4(header.length + name.length));
    parts.push(Buffer.from(data), padTo4(data.length));
  };
  withParents(entries).forEach((entry, index) => {
    add(index + 1, entry);
  });
  add(0, { path: 'TRAILER!!!', mode: 0 });
  return Buffer.concat(parts);
}

/** The kernel does not create missing parent folders. */
function withParents(entries: readonly CpioEntry[]): CpioEntry[] {
  const known = new Set<string>();
  const all: CpioEntry[] = [];
  const add = (entry: CpioEntry): void => {
    const slash = entry.path.lastIndexOf('/');
    if (slash > 0) add({ path: entry.path.slice(0, slash), mode: S_IFDIR | 0o755 });
    if (known.has(entry.path)) return;
    known.add(entry.path);
    all.push(entry);
  };
  entries.forEach(add);
  return all;
}
