import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export const isUuid = (text: string): boolean => UUID.test(text);

/** The UUID's 16 bytes in text order (RFC 9562). @throws SysError EINVAL for a malformed UUID */
export function uuidBytes(uuid: string): Uint8Array {
  if (!isUuid(uuid)) {
    throw new SysError({ call: 'UUID', target: `'${uuid}'`, errno: errno.EINVAL, hint: 'not a UUID' });
  }
  return Uint8Array.from(Buffer.from(uuid.replaceAll('-', ''), 'hex'));
}
