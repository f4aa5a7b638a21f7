/** A device as it is written on a command line: `virtio-net,net=tap:tap0,slot=5`. */
import { ConfigError } from './config-error.js';

export interface DeviceAddress {
  readonly address: string;
  readonly options: Readonly<Record<string, string>>;
}

/** @param where for messages: `--device [0]`. @throws ConfigError */
export function parseAddress(text: string, where: string): DeviceAddress {
  const [address = '', ...rest] = text.split(',');
  const pairs = rest.map((pair) => {
    const at = pair.indexOf('=');
    if (at >= 1) return [pair.slice(0, at), pair.slice(at + 1)] as const;
    throw new ConfigError([{ path: where, text: `'${pair}' is not of the form key=value` }]);
  });
  return { address, options: Object.fromEntries(pairs) };
}
