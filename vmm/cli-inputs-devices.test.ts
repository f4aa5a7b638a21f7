/** Wrong devices: what is said of an address and its options, before anything is opened. */
import { afterAll, expect, test } from 'vitest';
import type { ConfigError } from './config-error.js';
import { parseAddress } from './device-address.js';
import { checkDevices } from './device-check.js';
import { openProviders } from './testing/providers.js';
import { type Row, testWrongInputs } from './testing/wrong-inputs.js';

const DEVICE_SLOT = (text: string) =>
  `--device virtio-net,slot=${text}: slot=${text} is not a PCI slot: 1 to 31, or a function of one: 5.1`;

const DEVICES: readonly Row[] = [
  ...['abc', '0x4', '1e0', '-1', '', '3.8', '3.', '100'].map(
    (text): Row => [`run --device virtio-net,slot=${text}`, DEVICE_SLOT(text)],
  ),
  [
    'run --device virtio-net,slot=3.5',
    '--device virtio-net,slot=3.5, slot: 3.5 needs a device that is function 0, slot=3, beside it',
  ],
  ['run --disk x,redonly', "--disk x,redonly: 'redonly' is not of the form key=value"],
  ['run --disk x,slot=32', '--disk x,slot=32, slot: 32 is too large: 31 is the most'],
  ['run --device none --disk x,slot=0', '--disk x,slot=0, slot: 0 is too small: 1 is the least'],
  ['run --disk x,slot=5 --device mtty-1,slot=5', "--disk x,slot=5, slot: 5 is --device mtty-1,slot=5's"],
  ['run --device virtio-net,slot=0', '--device virtio-net,slot=0, slot: 0 is too small: 1 is the least'],
  ['run --device virtio-net,slot=32', '--device virtio-net,slot=32, slot: 32 is too large: 31 is the most'],
  [
    'run --device virtio-net,slot=5 --device mtty-1,slot=5',
    "--device mtty-1,slot=5, slot: 5 is --device virtio-net,slot=5's",
  ],
  [
    'run --device virtio-net,interface=x',
    '--device virtio-net,interface=x: interface=x is neither group nor iommufd',
  ],
  ['run --device virtio-net,net', "--device virtio-net,net: 'net' is not of the form key=value"],
  ['run --device virtio-net,', "--device virtio-net,: '' is not of the form key=value"],
  ['run --device virtio-net,=x', "--device virtio-net,=x: '=x' is not of the form key=value"],
  [
    'run --device virtio-net,__proto__=x',
    "--device virtio-net,__proto__=x: '__proto__=x' is not of the form key=value",
  ],
  ['run --device virtio-net,mtu=1500,mtu=1400', '--device virtio-net,mtu=1500,mtu=1400: mtu= is given twice'],
  ['run --device virtio-net,slot=4,slot=5', '--device virtio-net,slot=4,slot=5: slot= is given twice'],
  ['run --device=', /^tsvisor: --device : an address is missing: /],
  ['run --device ,a=b', /^tsvisor: --device ,a=b: an address is missing: /],
  ['run --device none --device virtio-net', '--device: none is no device: give it alone'],
  ['run --device none --device none', '--device: none is no device: give it alone'],
  [
    'run --pcap x --device virtio-net',
    '--pcap: belongs to the default NIC; with --device, append pcap= to the device',
  ],
  [
    'run --net responder --device virtio-net',
    '--net: belongs to the default NIC; with --device, append net= to the device',
  ],
  [
    'run --net passt --device none',
    '--net: belongs to the default NIC; with --device, append net= to the device',
  ],
  [`run${' --device virtio-net'.repeat(30)}`, '--device: has 30 entries, and 29 is the most'],
];

testWrongInputs({ DEVICES });

const { providers, core } = openProviders();
afterAll(() => core[Symbol.dispose]());

const OPTIONS: readonly (readonly [device: string, text: string | RegExp])[] = [
  ['nothing', /^there is no device 'nothing'; there are:\n {4}.*virtio-net, mtty-1/],
  ['virtio-net2', "there is no device 'virtio-net2'; did you mean virtio-net?"],
  ['Virtio-Nt', "there is no device 'Virtio-Nt'; did you mean virtio-net?"],
  ['virtio-net-pci', "there is no device 'virtio-net-pci'; did you mean virtio-net?"],
  [
    'vgpu',
    "there is no device 'vgpu'; did you mean vgpu-small, vgpu-medium, vgpu-large, vgpu-whole, vgpu-half, vgpu-quarter or vgpu-eighth?",
  ],
  ['mtty', "there is no device 'mtty'; did you mean mtty-1 or mtty-2?"],
  ['vfiouser:/run/x', "there is no device 'vfiouser:/run/x'; did you mean vfio-user:/run/x?"],
  ['mdve:mtty-2', "there is no device 'mdve:mtty-2'; did you mean mdev:mtty-2?"],
  ['pci:0000:01:00.0', "there is no device 'pci:0000:01:00.0'; did you mean 0000:01:00.0?"],
  ['0000:01:00.0 ', "there is no device '0000:01:00.0 '; did you mean 0000:01:00.0?"],
  ['0000:01:20.0', /^there is no device '0000:01:20\.0'; there are:/],
  ['vm', /^there is no device 'vm'; there are:/],
  ['constructor', /^there is no device 'constructor'; /],
  ['0000:00:1f', "there is no device '0000:00:1f'; did you mean 0000:00:1f.0?"],
  ['mdev', /^there is no device 'mdev'; /],
  ['fd:x', "'x' is not the number of a descriptor"],
  ['fd:', "'' is not the number of a descriptor"],
  ['fd:-1', "'-1' is not the number of a descriptor"],
  ['mdev:', 'a type is missing: mdev:TYPE; tsvisor types lists them'],
  ['mdev:mtty-2,uuid=1', "uuid: '1' is not a UUID"],
  ['mdev:mtty-2,bind=vfio-pci', 'bind: is an option of a PCI function, and mdev:mtty-2 is none'],
  ['0000:99:00.0,uuid=1', 'uuid: is an option of mdev:TYPE, and 0000:99:00.0 is none'],
  ['0000:99:00.0,parent=x', 'parent: is an option of mdev:TYPE, and 0000:99:00.0 is none'],
  ['0000:99:00.0,device=x', 'device: is an option of fd:N, and 0000:99:00.0 is none'],
  ['0000:99:00.0,bind=', "bind: '' is not the name of a driver: bind=vfio-pci"],
  ['0000:99:00.0,bind=../x', "bind: '../x' is not the name of a driver: bind=vfio-pci"],
  ['0000:99:00.0,bnd=vfio-pci', /^there is no option bnd; did you mean bind\? There are:\n {4}bind: /],
  ['vfio-user:/x,trsut=on', /^there is no option trsut; did you mean trust\? There are:/],
  [
    'virtio-net,mtuu=1500',
    'unknown option mtuu; did you mean mtu? Expected net=, mac=, mtu=, offloads=, queues=, pcap=',
  ],
  [
    'virtio-net,MAC=x',
    'unknown option MAC; did you mean mac? Expected net=, mac=, mtu=, offloads=, queues=, pcap=',
  ],
  [
    'virtio-net,net=respnder',
    /^net: no back-end "respnder"; did you mean responder\? Expected responder or tap/,
  ],
  [
    'virtio-net,net=responder:corupt=3',
    /^net: unknown option "corupt=3"; did you mean corrupt\? Expected corrupt=/,
  ],
  [
    'virtio-net,net=passt:tcp-port=80',
    /^net: unknown option "tcp-port=80"; did you mean tcp-ports\? Expected /,
  ],
  ['mtty-2,port0=pyt', 'port0: "pyt" is none of loopback, pty or unix:PATH; did you mean pty?'],
  ['virtio-net,foo=bar', 'unknown option foo: expected net=, mac=, mtu=, offloads=, queues=, pcap='],
  [
    'virtio-net,net=foo',
    'net: no back-end "foo": expected responder or tap or vhost or passt or passt-socket',
  ],
  ['virtio-net,net=', /^net: no back-end ""/],
  ['virtio-net,net=tap:', 'net: a tap needs its interface name: tap:NAME'],
  ['virtio-net,net=vhost:', 'net: a tap needs its interface name: vhost:NAME'],
  ['virtio-net,net=vhost:fd=x', 'net: "x" is not the number of a descriptor: vhost:fd=N'],
  ['virtio-net,net=tap:abcdefghijklmnop', /^net: interface name "abcdefghijklmnop" is longer than 15/],
  ['virtio-net,net=passt:foo=1', /^net: unknown option "foo=1"/],
  ['virtio-net,net=responder:corrupt=x', /^net: "corrupt=x": corrupt takes a whole number/],
  ['virtio-net,mtu=1', 'mtu: 1 is not a number from 68 to 65535'],
  ['virtio-net,mtu=0x600', 'mtu: 0x600 is not a number from 68 to 65535'],
  ['virtio-net,mac=01:00:00:00:00:00', /^mac: 01:00:00:00:00:00 is not the address of one station/],
  ['virtio-net,pcap=', 'pcap: it takes the path of a file'],
  ['mtty-2,port9=pty', 'unknown option port9; did you mean port0? Expected port0=, port1='],
  ['mtty-1,port1=pty', 'unknown option port1; did you mean port0? Expected port0='],
  ['mtty-2,port0=foo', 'port0: "foo" is none of loopback, pty or unix:PATH'],
  ['mtty-2,port0=unix:', /^port0: a unix socket needs its path/],
  ['vgpu-small,xres=abc', "xres: 'abc' is not a number of pixels from 64 to 4095"],
  ['vgpu-small,xres=0x80', "xres: '0x80' is not a number of pixels from 64 to 4095"],
  ['vgpu-small,xres=4000,yres=4000', '4000x4000 needs more than the 8 MiB of vgpu-small'],
  ['vgpu-half,card=other', "card: there is no card 'other'; there are: card0"],
  ['vgpu-small,zres=1', 'unknown option zres; did you mean xres? Expected card=, xres=, yres='],
  ['0000:99:00.0,foo=1', /^there is no option foo; there are:\n {4}bind: /],
  ['0000:99:00.0,vf-token=1', /^vf-token: '1' is not a UUID/],
  ['0000:99:00.0,iommufd-fd=x', "'x' is not the number of a descriptor"],
  ['0000:99:00.0,group-fd=2', 'descriptor 2 is a standard stream'],
  ['fd:0', 'descriptor 0 is a standard stream'],
  ['fd:7,group-fd=7', "descriptor 7 is the address's, too: each is one file of its own"],
  [
    '0000:99:00.0,container-fd=7,group-fd=7',
    "descriptor 7 is container-fd's, too: each is one file of its own",
  ],
  ['virtio-net,net=tap:fd=x', 'net: "x" is not the number of a descriptor: tap:fd=N'],
  ['virtio-net,queues=0', 'queues: 0 is not a number from 1 to 16'],
  ['virtio-net,queues=17', 'queues: 17 is not a number from 1 to 16'],
  ['virtio-net,queues=0x2', 'queues: 0x2 is not a number from 1 to 16'],
  [
    'virtio-net,net=passt,queues=2',
    'queues: net=passt has one queue pair, so it takes queues=1; responder, tap, vhost take more',
  ],
  [
    'virtio-net,net=tap:fd=7,queues=2',
    'net: 2 queue pairs need as many descriptors: tap:fd=N:M, where 1 is given',
  ],
  ['virtio-net,net=vhost:fd=7:8', 'net: 2 descriptors need as many queue pairs: queues=2'],
  ['virtio-net,net=tap:fd=7:7,queues=2', 'net: a descriptor is given twice: tap:fd=7:7'],
  [
    'virtio-net,net=tap:fd=7:1,queues=2',
    'net: descriptor 1 is a standard stream: a tap has another, tap:fd=N',
  ],
  ['vfio-user:', /^a unix socket needs its path/],
  ['vfio-user:/x,timeout=0x5', 'timeout=0x5 is not a number of seconds'],
  ['vfio-user:/x,timeout=0', 'timeout=0 is not a number of seconds'],
  ['vfio-user:/x,trust=yes', 'trust=yes is neither on nor off'],
  ['vfio-user:/x,slots=1', /^there is no option slots; /],
];

test.each(OPTIONS)('device %s is refused before anything is opened', (device, text) => {
  const { address, options } = parseAddress(device, '');
  try {
    checkDevices(providers, [
      { address: 'virtio-net', options: {} },
      { address, options },
    ]);
  } catch (error) {
    const [problem, ...others] = (error as ConfigError).problems;
    expect(others).toEqual([]);
    expect(problem?.path).toBe('devices[1]');
    if (text instanceof RegExp) expect(problem?.text).toMatch(text);
    else expect(problem?.text).toBe(text);
    return;
  }
  expect.unreachable();
});

test.each([
  [['0000:99:00.0', '99:00.0'], "99:00.0 is devices[0]'s"],
  [['fd:7', 'fd:7'], "fd:7 is devices[0]'s"],
])('the devices %s are one, and are refused', (addresses, text) => {
  const devices = addresses.map((address) => ({ address, options: {} }));
  expect(() => checkDevices(providers, devices)).toThrowError(text);
});

test.each([
  '0000:99:00.0',
  '99:00.0',
  '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001',
  'mdev:mtty-2',
  'vfio-user:/no/such',
  'fd:7',
])('a device that the host may have is not refused by its form: %s', (address) => {
  expect(() => checkDevices(providers, [{ address, options: {} }])).not.toThrow();
});
