/** VF tokens: the secret that the users of a physical function and of its VFs share. After vfio_pci_core.c. */
import type { PciOps } from '../driver.js';
import { isUuid, randomUuid } from '../uuid.js';
import { vfioError } from '../vfio-error.js';

const VF_TOKEN_ARG = 'vf_token=';
const UUID_STRING_LEN = 36;

/** The token of a physical function: struct vfio_pci_vf_token. */
export class VfToken {
  /** Nobody can guess it before a user sets one. */
  uuid: string = randomUuid();
  /** Open VFs. */
  users = 0;
}

/** A PCI device as the check sees it. */
export interface TokenUser {
  readonly name: string;
  readonly pci: PciOps;
  /** Its own token, if it is a physical function. */
  readonly vfToken: VfToken | undefined;
  /** The token of its physical function, if it is a VF of one that was registered before it. */
  readonly physfnToken: VfToken | undefined;
}

const isSame = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();

/**
 * Checks the token that an opener gave, and keeps the one that a physical function's opener brings.
 * @throws SysError EACCES for a token that is wrong or missing; EINVAL for one that the device has no use for
 * @see vfio_pci_validate_vf_token
 */
export function validateVfToken(call: string, user: TokenUser, token: string | undefined): void {
  const { name, pci, vfToken, physfnToken } = user;
  const denied = (what: string) => vfioError(call, name, 'EACCES', what);
  if (pci.physfn !== undefined) {
    if (physfnToken === undefined) {
      if (token === undefined) return;
      throw vfioError(call, name, 'EINVAL', 'its physical function is no VFIO device: it takes no token');
    }
    if (token === undefined) throw denied('a VF needs the token of its physical function’s user');
    if (!isSame(token, physfnToken.uuid)) throw denied('the token is wrong');
    return;
  }
  if (vfToken === undefined) {
    if (token === undefined) return;
    throw vfioError(call, name, 'EINVAL', 'it is neither a physical function nor a VF: it takes no token');
  }
  if (vfToken.users > 0) {
    if (token === undefined) throw denied('its VFs are in use: opening it needs their token');
    if (!isSame(token, vfToken.uuid)) throw denied('its VFs are in use with another token');
  } else if (token !== undefined) {
    vfToken.uuid = token;
  }
}

/**
 * The options that follow a device's name in GET_DEVICE_FD: `vf_token=UUID`, or nothing.
 * @throws SysError EINVAL for any other option, a second token, and what is no UUID
 * @see vfio_pci_core_match
 */
export function tokenOfOptions(call: string, device: string, options: string): string | undefined {
  const fail = (hint: string) => vfioError(call, device, 'EINVAL', hint);
  let token: string | undefined;
  for (let rest = options; rest !== ''; ) {
    if (rest.startsWith(' ')) {
      rest = rest.slice(1);
    } else {
      if (token !== undefined || !rest.startsWith(VF_TOKEN_ARG)) throw fail(`unknown option: ${rest}`);
      token = rest.slice(VF_TOKEN_ARG.length, VF_TOKEN_ARG.length + UUID_STRING_LEN);
      if (!isUuid(token)) throw fail(`${token} is not a UUID`);
      rest = rest.slice(VF_TOKEN_ARG.length + UUID_STRING_LEN);
    }
  }
  return token;
}
