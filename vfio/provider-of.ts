import type { VfioProvider } from './provider.js';

/** The provider that an address belongs to: the first that matches it. */
export const providerOf = (providers: readonly VfioProvider[], address: string): VfioProvider | undefined =>
  providers.find((provider) => provider.matches(address));
