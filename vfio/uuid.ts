import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import * as libc from '../sys/libc.js';
import { SYSTEM_CALLS } from '../sys/system-calls.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export const isUuid = (text: string): boolean => UUID.test(text);

/** The UUID's 16 bytes in text order (RFC 9562). @throws SysError EINVAL for a malformed UUID */
export function uuidBytes(uuid: string): Uint8Array {
  if (!isUuid(uuid)) {
    throw new SysError({ call: 'UUID', target: `'${uuid}'`, errno: errno.EINVAL, hint: 'not a UUID' });
  }
  return Uint8Array.from(Buffer.from(uuid.replaceAll('-', ''), 'hex'));
}

const BYTES = 16;
/** As many as getrandom(2) fills in one go, whatever signals come: calling it for each would take longer than all the rest. */
const pool = new Uint8Array(256);
let used = pool.length;

/** Random bytes of the kernel, without Node's crypto, which takes each thread 3 to 8 ms to load. */
function randomBytes(): Uint8Array {
  if (used === pool.length) {
    const result = libc.withAddress(pool, (address) =>
      libc.syscall(SYSTEM_CALLS.getrandom, address, pool.length, 0),
    );
    if (result < 0) throw new SysError({ call: 'getrandom', target: 'a UUID', errno: -result });
    used = 0;
  }
  used += BYTES;
  return pool.slice(used - BYTES, used);
}

/** A UUID that nobody can guess (RFC 9562, version 4). @throws SysError as getrandom(2) */
export function randomUuid(): string {
  const bytes = randomBytes();
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  const hex = Buffer.from(bytes).toString('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
