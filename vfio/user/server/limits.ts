/** What one client may use of this process. docs/limits.md lists these limits with the errors beyond them. */

/** Bytes of files mapped for a client; beyond it, ENOSPC. V8 needs address space of its own, of which there are 47 bits. */
export const MOST_CLIENT_MAPPED_BYTES = 2 ** 42;
/** Mappings of a client's files; beyond it, ENOSPC. The kernel allows a process 65,530 (vm.max_map_count). */
export const MOST_CLIENT_MAPPINGS = 4096;
/** Commands that wait while the device accesses memory by message; beyond any of these, EPROTO and the end. */
export const MOST_DEFERRED = 1024;
export const MOST_DEFERRED_BYTES = 8 << 20;
export const MOST_DEFERRED_FDS = 64;
/** Accesses outside the client's maps that wait for its answer; beyond it, EBUSY. A device stops waiting for most of them. */
export const MOST_ASKED = 16;
