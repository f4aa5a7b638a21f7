/** A device as it is written on a command line: `virtio-net,net=tap:tap0,slot=5`. */
import { ConfigError } from './config-error.js';

export interface DeviceAddress {
  readonly address: string;
  readonly options: Readonly<Record<string, string>>;
}

/** @param where for messages: `--device virtio-net,mtu`. @throws ConfigError listing every problem */
export function parseAddress(text: string, where: string): DeviceAddress {
  const [address = '', ...rest] = text.split(',');
  const problems: string[] = [];
  if (address === '') problems.push('an address is missing: --device virtio-net, --device 0000:01:00.0');
  const options = new Map<string, string>();
  for (const pair of rest) {
    const at = pair.indexOf('=');
    const name = pair.slice(0, Math.max(at, 0));
    if (at < 1 || name === '__proto__') problems.push(`'${pair}' is not of the form key=value`);
    else if (options.has(name)) problems.push(`${name}= is given twice`);
    else options.set(name, pair.slice(at + 1));
  }
  if (problems.length > 0) throw new ConfigError(problems.map((problem) => ({ path: where, text: problem })));
  return { address, options: Object.fromEntries(options) };
}
