/** Answers the kernel's FUSE requests from a tree of attributes, as sysfs would. Opens nothing; @see fuse-mount.ts */
import { errno } from './errno.js';
import { isErrno, SysError } from './error.js';
import * as fuse from './fuse-protocol.js';

/** A folder, whose entries are asked for at each request: they may come and go. */
export interface FuseFolder {
  readonly kind: 'folder';
  readonly entries: () => Readonly<Record<string, FuseNode>>;
}

/** A symbolic link. */
export interface FuseLink {
  readonly kind: 'link';
  readonly target: string;
}

/** A file with a line or a few of text, made at each reading from its beginning. */
export interface FuseAttribute {
  readonly kind: 'attribute';
  /** @throws SysError what read(2) fails with */
  readonly read: () => string;
  /**
   * Acts on what a write(2) has written, whatever its offset; absent: it cannot be opened for writing, not even by root.
   * @param pid of the process that writes, in this one's PID namespace; 0 from outside of it
   * @throws SysError what write(2) fails with
   */
  readonly write?: (text: string, pid: number) => void;
}

export type FuseNode = FuseFolder | FuseLink | FuseAttribute;

/** What is open: the text or the names that reading goes on in, once it has begun. */
interface Handle {
  text?: Uint8Array;
  names?: readonly string[];
}

const MINOR = 31;
/** As much as sysfs gives an attribute in one write(2); the kernel splits longer ones. */
const MAX_WRITE = 4096;
/** Open files and folders of all processes. */
const MOST_HANDLES = 1024;
const O_ACCMODE = 3;

const MODES = { folder: 0o40755, link: 0o120777, attribute: 0o100444 } as const;
const WRITABLE = 0o200;
const TYPES = { folder: 4, link: 10, attribute: 8 } as const;

/** The tree is what its caller makes it: nothing can be made, removed or renamed in it. */
const CHANGES: readonly number[] = [
  fuse.FUSE_SYMLINK,
  fuse.FUSE_MKNOD,
  fuse.FUSE_MKDIR,
  fuse.FUSE_UNLINK,
  fuse.FUSE_RMDIR,
  fuse.FUSE_RENAME,
  fuse.FUSE_RENAME2,
  fuse.FUSE_LINK,
];
/** The kernel waits for no answer to them. Requests are answered one by one, so there is nothing to interrupt. */
const UNANSWERED: readonly number[] = [fuse.FUSE_FORGET, fuse.FUSE_BATCH_FORGET, fuse.FUSE_INTERRUPT];

const fail = (
  code: 'EINVAL' | 'ENOENT' | 'ENODEV' | 'ENOTDIR' | 'EISDIR' | 'EACCES' | 'EPERM' | 'ENFILE' | 'EBADF',
) => new SysError({ call: 'fuse', target: 'tree', errno: errno[code] });

interface Request {
  readonly opcode: number;
  readonly id: number;
  readonly pid: number;
  readonly body: Uint8Array;
}

type Answer = Uint8Array;
const NOTHING: Answer = new Uint8Array(0);

/** One mounted tree, as the kernel sees it. */
export class FuseTree {
  readonly #root: FuseFolder;
  /** Paths by the number that the kernel knows them by. They are kept: the tree has few. */
  readonly #paths: (readonly string[])[] = [[], []];
  readonly #ids = new Map<string, number>([['', fuse.FUSE_ROOT_ID]]);
  readonly #handles = new Map<number, Handle>();
  readonly #owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  readonly #fault: (error: unknown) => void;
  #lastHandle = 0;

  /** @param fault gets what a node throws that is no SysError; the request is answered with EIO */
  constructor(root: FuseFolder, fault: (error: unknown) => void = () => {}) {
    this.#root = root;
    this.#fault = fault;
  }

  /** The answer to one request; undefined if there is none. Never throws, whatever the bytes are. */
  answer(bytes: Uint8Array): Uint8Array | undefined {
    if (bytes.length < fuse.InHeader.size) return undefined;
    const { len, opcode, unique, nodeid, pid } = fuse.InHeader.decode(bytes);
    if (UNANSWERED.includes(opcode)) return undefined;
    try {
      if (len !== bytes.length) throw fail('EINVAL');
      const body = bytes.subarray(fuse.InHeader.size);
      return reply(unique, 0, this.#answer({ opcode, id: Number(nodeid), pid, body }));
    } catch (error) {
      if (error instanceof SysError) return reply(unique, error.errno, NOTHING);
      this.#fault(error);
      return reply(unique, errno.EIO, NOTHING);
    }
  }

  #answer(request: Request): Answer {
    const { opcode, id, body } = request;
    switch (opcode) {
      case fuse.FUSE_INIT:
        return init(body);
      case fuse.FUSE_LOOKUP:
        return this.#lookup(id, nameIn(body));
      case fuse.FUSE_GETATTR:
        return fuse.AttrOut.encode({ attr: this.#attr(id, this.#node(id)) });
      case fuse.FUSE_SETATTR:
        return this.#setattr(id, decode(fuse.SetattrIn, body).valid);
      case fuse.FUSE_READLINK: {
        const node = this.#node(id);
        if (node.kind !== 'link') throw fail('EINVAL');
        return Buffer.from(node.target);
      }
      case fuse.FUSE_OPEN:
        return this.#open(id, decode(fuse.OpenIn, body).flags);
      case fuse.FUSE_OPENDIR:
        this.#folder(id);
        return this.#opened(0);
      case fuse.FUSE_READ:
        return this.#read(id, decode(fuse.ReadIn, body));
      case fuse.FUSE_READDIR:
        return this.#readdir(id, decode(fuse.ReadIn, body));
      case fuse.FUSE_WRITE:
        return this.#write(request);
      case fuse.FUSE_RELEASE:
      case fuse.FUSE_RELEASEDIR:
        this.#handles.delete(Number(decode(fuse.ReleaseIn, body).fh));
        return NOTHING;
      case fuse.FUSE_STATFS:
        return fuse.Kstatfs.encode({ bsize: MAX_WRITE, frsize: MAX_WRITE, namelen: 255 });
      case fuse.FUSE_CREATE:
        throw fail('EACCES'); // as sysfs has it for files alone
      default:
        if (CHANGES.includes(opcode)) throw fail('EPERM');
        throw new SysError({ call: 'fuse', target: `opcode ${opcode}`, errno: errno.ENOSYS });
    }
  }

  #node(id: number): FuseNode {
    const path = id >= fuse.FUSE_ROOT_ID ? this.#paths[id] : undefined;
    if (path === undefined) throw fail('ENOENT');
    return path.reduce<FuseNode>((node, name) => entryOf(node, name), this.#root);
  }

  /** What a file that is open is of. @throws SysError ENODEV, as sysfs, if that is not there any more */
  #openNode(id: number): FuseNode {
    try {
      return this.#node(id);
    } catch (error) {
      throw isErrno(error, 'ENOENT') ? fail('ENODEV') : error;
    }
  }

  #folder(id: number): Readonly<Record<string, FuseNode>> {
    const node = this.#node(id);
    if (node.kind !== 'folder') throw fail('ENOTDIR');
    return node.entries();
  }

  /** The number of a path, which stays the same. */
  #idOf(folder: number, name: string): number {
    const path = [...(this.#paths[folder] as readonly string[]), name];
    const key = path.join('/');
    const known = this.#ids.get(key);
    if (known !== undefined) return known;
    const id = this.#paths.push(path) - 1;
    this.#ids.set(key, id);
    return id;
  }

  #lookup(folder: number, name: string): Answer {
    const node = entryOf(this.#node(folder), name);
    const id = this.#idOf(folder, name);
    // No time of validity: the kernel asks at each access.
    return fuse.EntryOut.encode({ nodeid: BigInt(id), attr: this.#attr(id, node) });
  }

  #attr(id: number, node: FuseNode) {
    const isWritable = node.kind === 'attribute' && node.write !== undefined;
    const attr = {
      ino: BigInt(id),
      size: BigInt(node.kind === 'attribute' ? MAX_WRITE : 0),
      mode: MODES[node.kind] | (isWritable ? WRITABLE : 0),
      nlink: node.kind === 'folder' ? 2 : 1,
      blksize: MAX_WRITE,
      ...this.#owner,
    };
    return fuse.Attr.decode(fuse.Attr.encode(attr));
  }

  /** Truncating, which a shell does with `>`, and setting times change nothing. */
  #setattr(id: number, valid: number): Answer {
    if ((valid & (fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID)) !== 0) throw fail('EPERM');
    return fuse.AttrOut.encode({ attr: this.#attr(id, this.#node(id)) });
  }

  #open(id: number, flags: number): Answer {
    const node = this.#node(id);
    if (node.kind !== 'attribute') throw fail(node.kind === 'folder' ? 'EISDIR' : 'EINVAL');
    if ((flags & O_ACCMODE) !== 0 && node.write === undefined) throw fail('EACCES');
    // A close then asks nothing (from Linux 5.16 on): the thread that answers can close a descriptor that a client has sent it.
    return this.#opened(fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH);
  }

  #opened(openFlags: number): Answer {
    if (this.#handles.size >= MOST_HANDLES) throw fail('ENFILE');
    const id = ++this.#lastHandle;
    this.#handles.set(id, {});
    return fuse.OpenOut.encode({ fh: BigInt(id), open_flags: openFlags });
  }

  #handle(fh: bigint): Handle {
    const handle = this.#handles.get(Number(fh));
    if (handle === undefined) throw fail('EBADF');
    return handle;
  }

  #read(id: number, { fh, offset, size }: { fh: bigint; offset: bigint; size: number }): Answer {
    const [node, handle] = [this.#openNode(id), this.#handle(fh)];
    if (node.kind !== 'attribute') throw fail('EINVAL');
    // What is read in several pieces is of one moment.
    if (offset === 0n || handle.text === undefined) handle.text = Buffer.from(node.read());
    const at = Number(offset);
    return handle.text.subarray(at, at + size);
  }

  #readdir(id: number, { fh, offset, size }: { fh: bigint; offset: bigint; size: number }): Answer {
    const [entries, handle] = [this.#folder(id), this.#handle(fh)];
    if (offset === 0n || handle.names === undefined) handle.names = ['.', '..', ...Object.keys(entries)];
    const out: Uint8Array[] = [];
    let left = size;
    for (let at = Number(offset); at < handle.names.length; at++) {
      const name = handle.names[at] as string;
      const node = at < 2 ? this.#root : entries[name];
      if (node === undefined) continue; // it has gone meanwhile
      const ino = at < 2 ? id : this.#idOf(id, name);
      const entry = direntOf(name, BigInt(ino), BigInt(at + 1), TYPES[node.kind]);
      if (entry.length > left) break;
      left -= entry.length;
      out.push(entry);
    }
    return Buffer.concat(out);
  }

  #write({ id, pid, body }: Request): Answer {
    const { fh, size } = decode(fuse.WriteIn, body);
    const bytes = body.subarray(fuse.WriteIn.size);
    const node = this.#openNode(id);
    this.#handle(fh);
    if (node.kind !== 'attribute' || node.write === undefined) throw fail('EBADF');
    if (bytes.length !== size || size > MAX_WRITE) throw fail('EINVAL');
    node.write(Buffer.from(bytes).toString(), pid);
    return fuse.WriteOut.encode({ size });
  }
}

/** A kernel of another major version proposes again, after this answer. All that Node runs on have a minor version for it. */
function init(body: Uint8Array): Answer {
  const { minor } = decode(fuse.InitIn, body);
  const out = {
    major: fuse.FUSE_KERNEL_VERSION,
    minor: Math.min(minor, MINOR),
    max_write: MAX_WRITE,
    time_gran: 1,
  };
  return fuse.InitOut.encode(out, fuse.INIT_OUT_BYTES - fuse.InitOut.size);
}

function entryOf(node: FuseNode, name: string): FuseNode {
  if (node.kind !== 'folder') throw fail('ENOTDIR');
  const entries = node.entries();
  const entry = Object.hasOwn(entries, name) ? entries[name] : undefined;
  if (entry === undefined) throw fail('ENOENT');
  return entry;
}

/** The name that ends a request, with a zero byte behind it. */
function nameIn(body: Uint8Array): string {
  if (body.length < 2 || body.indexOf(0) !== body.length - 1) throw fail('EINVAL');
  return Buffer.from(body.subarray(0, -1)).toString();
}

function decode<T>(layout: { readonly size: number; decode(bytes: Uint8Array): T }, body: Uint8Array): T {
  if (body.length < layout.size) throw fail('EINVAL');
  return layout.decode(body);
}

function direntOf(name: string, ino: bigint, off: bigint, type: number): Uint8Array {
  const bytes = Buffer.from(name);
  const { size } = fuse.Dirent;
  const entry = fuse.Dirent.encode(
    { ino, off, namelen: bytes.length, type },
    Math.ceil(bytes.length / 8) * 8,
  );
  entry.set(bytes, size);
  return entry;
}

function reply(unique: bigint, error: number, body: Uint8Array): Uint8Array {
  const len = fuse.OutHeader.size + body.length;
  const out = fuse.OutHeader.encode({ len, error: -error, unique }, body.length);
  out.set(body, fuse.OutHeader.size);
  return out;
}
