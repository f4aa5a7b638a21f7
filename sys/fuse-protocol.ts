/** The parts of linux/fuse.h that a tree of attributes needs, under the C names. All little-endian, of protocol 7.31. */
import { struct } from './struct.js';

const HEADER = 'linux/fuse.h';

export const FUSE_KERNEL_VERSION = 7;
export const FUSE_ROOT_ID = 1;
export const FUSE_MIN_READ_BUFFER = 8192;
export const FOPEN_DIRECT_IO = 1;
export const FOPEN_NOFLUSH = 32;
export const FATTR_MODE = 1;
export const FATTR_UID = 2;
export const FATTR_GID = 4;

export const FUSE_LOOKUP = 1;
export const FUSE_FORGET = 2;
export const FUSE_GETATTR = 3;
export const FUSE_SETATTR = 4;
export const FUSE_READLINK = 5;
export const FUSE_SYMLINK = 6;
export const FUSE_MKNOD = 8;
export const FUSE_MKDIR = 9;
export const FUSE_UNLINK = 10;
export const FUSE_RMDIR = 11;
export const FUSE_RENAME = 12;
export const FUSE_LINK = 13;
export const FUSE_OPEN = 14;
export const FUSE_READ = 15;
export const FUSE_WRITE = 16;
export const FUSE_STATFS = 17;
export const FUSE_RELEASE = 18;
export const FUSE_INIT = 26;
export const FUSE_OPENDIR = 27;
export const FUSE_READDIR = 28;
export const FUSE_RELEASEDIR = 29;
export const FUSE_CREATE = 35;
export const FUSE_INTERRUPT = 36;
export const FUSE_BATCH_FORGET = 42;
export const FUSE_RENAME2 = 45;

export const InHeader = struct(
  'struct fuse_in_header',
  HEADER,
  {
    len: 'u32',
    opcode: 'u32',
    unique: 'u64',
    nodeid: 'u64',
    uid: 'u32',
    gid: 'u32',
    pid: 'u32',
    total_extlen: 'u16',
    padding: 'u16',
  },
  { since: '6.3' }, // before, the last two were one field of padding
);

export const OutHeader = struct('struct fuse_out_header', HEADER, {
  len: 'u32',
  error: 's32',
  unique: 'u64',
});

export const Attr = struct('struct fuse_attr', HEADER, {
  ino: 'u64',
  size: 'u64',
  blocks: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  rdev: 'u32',
  blksize: 'u32',
  flags: 'u32',
});

export const EntryOut = struct('struct fuse_entry_out', HEADER, {
  nodeid: 'u64',
  generation: 'u64',
  entry_valid: 'u64',
  attr_valid: 'u64',
  entry_valid_nsec: 'u32',
  attr_valid_nsec: 'u32',
  attr: Attr,
});

export const AttrOut = struct('struct fuse_attr_out', HEADER, {
  attr_valid: 'u64',
  attr_valid_nsec: 'u32',
  dummy: 'u32',
  attr: Attr,
});

export const SetattrIn = struct('struct fuse_setattr_in', HEADER, {
  valid: 'u32',
  padding: 'u32',
  fh: 'u64',
  size: 'u64',
  lock_owner: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  unused4: 'u32',
  uid: 'u32',
  gid: 'u32',
  unused5: 'u32',
});

export const OpenIn = struct('struct fuse_open_in', HEADER, { flags: 'u32', open_flags: 'u32' });
export const OpenOut = struct('struct fuse_open_out', HEADER, {
  fh: 'u64',
  open_flags: 'u32',
  padding: 'u32',
});

export const ReadIn = struct('struct fuse_read_in', HEADER, {
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  read_flags: 'u32',
  lock_owner: 'u64',
  flags: 'u32',
  padding: 'u32',
});

export const WriteIn = struct('struct fuse_write_in', HEADER, {
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  write_flags: 'u32',
  lock_owner: 'u64',
  flags: 'u32',
  padding: 'u32',
});
export const WriteOut = struct('struct fuse_write_out', HEADER, { size: 'u32', padding: 'u32' });

export const ReleaseIn = struct('struct fuse_release_in', HEADER, {
  fh: 'u64',
  flags: 'u32',
  release_flags: 'u32',
  lock_owner: 'u64',
});

/** Its name follows, filled up to a multiple of 8 bytes. */
export const Dirent = struct('struct fuse_dirent', HEADER, {
  ino: 'u64',
  off: 'u64',
  namelen: 'u32',
  type: 'u32',
});

export const Kstatfs = struct('struct fuse_kstatfs', HEADER, {
  blocks: 'u64',
  bfree: 'u64',
  bavail: 'u64',
  files: 'u64',
  ffree: 'u64',
  bsize: 'u32',
  namelen: 'u32',
  frsize: 'u32',
  padding: 'u32',
  spare: ['u32', 6],
});

/** What kernels of all versions send of it at least. */
export const InitIn = struct('first fields of struct fuse_init_in', '', {
  major: 'u32',
  minor: 'u32',
  max_readahead: 'u32',
  flags: 'u32',
});

/** All of it has 64 bytes, of which newer kernels use more; the rest is 0. */
export const InitOut = struct('first fields of struct fuse_init_out', '', {
  major: 'u32',
  minor: 'u32',
  max_readahead: 'u32',
  flags: 'u32',
  max_background: 'u16',
  congestion_threshold: 'u16',
  max_write: 'u32',
  time_gran: 'u32',
});
export const INIT_OUT_BYTES = 64;
