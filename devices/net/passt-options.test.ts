import { expect, test } from 'vitest';
import { parsePasstOptions } from './passt-options.js';

test.each([
  ['', ['--mtu=1500']],
  ['no-map-gw', ['--no-map-gw', '--mtu=1500']],
  [
    'tcp-ports=8080:80,tcp-ports=192.0.2.1/2222:22;udp-ports=53',
    ['--tcp-ports=8080:80', '--tcp-ports=192.0.2.1/2222:22', '--udp-ports=53', '--mtu=1500'],
  ],
  ['mtu=9000,ipv4-only', ['--mtu=9000', '--ipv4-only']],
])('%j is %j', (text, args) => {
  expect(parsePasstOptions(text)).toEqual(args);
});

test.each([
  ['pcap=/etc/passwd', 'unknown option "pcap=/etc/passwd": expected tcp-ports='],
  ['-f', 'unknown option "-f"'],
  ['tcp-ports', 'tcp-ports takes a value'],
  ['address=', 'address takes a value'],
  ['no-map-gw=1', 'no-map-gw takes no value'],
  ['fd=4,what', 'unknown option "fd=4".*unknown option "what"'],
])('%j is rejected: %s', (text, problem) => {
  expect(parsePasstOptions(text)).toMatch(new RegExp(problem));
});
