/** Modules of a kernel with all that they depend on, for busybox's modprobe. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { type CpioEntry, S_IFREG } from './cpio.js';
import { readNamed } from './programs.js';

/** What modules are called in commands: `i2c-i801` and `i2c_i801` are one. */
const moduleName = (path: string): string =>
  basename(path)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');

const refuse = (target: string, code: number, hint: string): SysError =>
  new SysError({ call: 'bootGuest', target, errno: code, hint });

/**
 * The files of modules, uncompressed, and the indexes that modprobe reads. What is built into the kernel is in one of
 * them, and has no file.
 * @param folder the kernel's /lib/modules/RELEASE, with modules.dep of depmod
 * @param names as modprobe takes them
 * @param busybox unpacks xz
 * @throws SysError ENOENT for a module or an index that is not there, EIO for a file that cannot be unpacked
 */
export function moduleEntries(
  folder: string,
  release: string,
  names: readonly string[],
  busybox: string,
): CpioEntry[] {
  if (names.length === 0) return [];
  const index = readNamed(
    join(folder, 'modules.dep'),
    "the folder of the kernel's modules, /lib/modules/RELEASE, by `modulesFolder`; `depmod` makes its index",
  ).toString();
  const known = new Map<string, { readonly path: string; readonly needs: readonly string[] }>();
  for (const line of index.split('\n')) {
    const [path, needs] = line.split(':');
    if (path && needs !== undefined)
      known.set(moduleName(path), { path, needs: needs.split(' ').filter(Boolean) });
  }
  const builtinPath = join(folder, 'modules.builtin');
  const builtin = existsSync(builtinPath) ? readFileSync(builtinPath) : Buffer.alloc(0);
  const isBuiltIn = new Set(builtin.toString().split('\n').filter(Boolean).map(moduleName));
  /** By name, with the files that each needs. */
  const chosen = new Map<string, readonly string[]>();
  for (const given of names) {
    const name = moduleName(given);
    const module = known.get(name);
    if (module !== undefined)
      for (const path of [module.path, ...module.needs])
        chosen.set(path, known.get(moduleName(path))?.needs ?? []);
    else if (!isBuiltIn.has(name))
      throw refuse(given, errno.ENOENT, `kernel ${release} has no such module in ${folder}`);
  }
  const base = `lib/modules/${release}`;
  const plain = (path: string): string => `${moduleName(path)}.ko`;
  const lines = [...chosen].map(([path, needs]) => `${[`${plain(path)}:`, ...needs.map(plain)].join(' ')}\n`);
  return [
    { path: `${base}/modules.dep`, mode: S_IFREG | 0o644, data: Buffer.from(lines.join('')) },
    // With it, modprobe takes what is built in for loaded.
    { path: `${base}/modules.builtin`, mode: S_IFREG | 0o644, data: builtin },
    ...[...chosen.keys()].map((path) => ({
      path: `${base}/${plain(path)}`,
      mode: S_IFREG | 0o644,
      data: unpacked(join(folder, path), busybox),
    })),
  ];
}

const MOST_MODULE_BYTES = 256 << 20;

function unpacked(path: string, busybox: string): Buffer {
  const data = readNamed(path, 'modules.dep names it: is the package of the modules whole?');
  if (path.endsWith('.gz')) return gunzipSync(data);
  const command = path.endsWith('.xz')
    ? [busybox, 'xz', '-dc']
    : path.endsWith('.zst')
      ? ['zstd', '-dc']
      : [];
  const [program, ...args] = command;
  if (program === undefined) return data;
  const { status, stdout, error } = spawnSync(program, args, { input: data, maxBuffer: MOST_MODULE_BYTES });
  if (status !== 0)
    throw refuse(
      path,
      errno.EIO,
      `${command.join(' ')} does not unpack it: ${error?.message ?? `status ${status}`}`,
    );
  return stdout;
}
