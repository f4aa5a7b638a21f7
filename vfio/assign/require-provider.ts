import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { VfioProvider } from '../provider.js';
import { providerOf } from '../provider-of.js';
import { isUuid } from '../uuid.js';

/** The first provider that matches an address. @throws SysError ENODEV, with the forms of addresses, if none matches */
export function requireProvider(providers: readonly VfioProvider[], address: string): VfioProvider {
  const provider = providerOf(providers, address);
  if (provider !== undefined) return provider;
  const known = providers.map(({ name, addresses }) => `${name}: ${addresses}`).join('; ');
  const hint = isUuid(address)
    ? 'no mediated device has this UUID; mdev:TYPE with uuid= makes one of the kernel'
    : `known devices are: ${known}`;
  throw new SysError({ call: 'attach', target: `device '${address}'`, errno: errno.ENODEV, hint });
}
