/** Wrong inputs of the other commands: for each the status, and what is said. */
import { NO_OPTION, PORT, type Row, SIZE, testWrongInputs } from './testing/wrong-inputs.js';

const SERVED: readonly Row[] = [
  ['serve', 'serve: takes a device: tsvisor serve virtio-net,net=passt --socket /run/nic.sock'],
  ['serve a b', '--socket: is missing: the path where clients connect'],
  ['serve a b --socket @s', '--socket: is there once for 2 devices: each has its own'],
  ['serve mtty-1 --socket @s --socket @t', '--socket: is there 2 times for 1 device: each has its own'],
  ['serve mtty-1 mtty-1 --socket @s --socket @s', /^tsvisor: --socket: .*s' is there twice\n$/],
  ['serve --vf-sysfs @directory', '--socket: is missing: the path where clients connect'],
  [
    'serve --vf-sysfs @directory --socket @s --vf-id 10de',
    "--vf-id: '10de' is no PCI ID: 10de:26b9 would be one",
  ],
  ['serve vgpu-half --socket @s --vf-id 10de:26b9', '--vf-id: is for the VFs of --vf-sysfs'],
  ['serve --vf-sysfs @no --socket @s', "--vf-sysfs: there is no directory '@no'"],
  ['serve --vf-sysfs @file --socket @s', "--vf-sysfs: '@file' is no directory"],
  ['serve --vf-sysfs= --socket @s', '--vf-sysfs: is empty: it takes a folder without anything in it'],
  [
    'serve vgpu-half --vf-sysfs @directory --socket @s',
    "--vf-sysfs: is in place of devices: leave 'vgpu-half' out",
  ],
  [
    'serve --vf-sysfs @directory --socket @directory/s',
    '--socket: @directory/s is in the folder of the VFs’ sysfs',
  ],
  ['serve --vf-sysfs @directory --socket @s --socket @s', /^tsvisor: --socket: .*s' is there twice\n$/],
  [
    `serve --vf-sysfs @directory ${Array.from({ length: 33 }, (_, i) => `--socket @s${i}`).join(' ')}`,
    '--socket: is there 33 times: a card has at most 32 VFs',
  ],
  [
    'serve --vf-sysfs @directory --socket @s --vgpu-card a --vgpu-card b',
    '--vgpu-card: is there twice: the VFs of --vf-sysfs are those of one card',
  ],
  ['serve virtio-net', '--socket: is missing: the path where clients connect'],
  ['serve virtio-net --socket', '--socket: needs a value: --socket PATH'],
  ['serve virtio-net --socket=', '--socket: a unix socket needs its path: unix:/run/user/1000/sock'],
  [
    `serve virtio-net --socket /${'x'.repeat(120)}`,
    /^tsvisor: --socket: a unix socket's path has at most 107 bytes/,
  ],
  ['serve virtio-net --socket @file', '--socket: @file exists, and is not a socket'],
  ['serve virtio-net --socket @fifo', '--socket: @fifo exists, and is not a socket'],
  ['serve virtio-net --socket @directory', '--socket: @directory exists, and is not a socket'],
  ['serve virtio-net --socket @no/sock', '--socket: there is no directory @no'],
  ['serve virtio-net --socket unix:@no/sock', '--socket: there is no directory @no'],
  [
    'serve virtio-net --socket @s --log-level loud',
    "--log-level: 'loud' is not one of error, warn, info, debug",
  ],
  [
    'serve virtio-net --socket @s --log-level warn --quiet',
    '--quiet: is --log-level error: give one of the two',
  ],
  ['serve virtio-net --socket @s --trace vfioUsr', /; did you mean vfioUser\?\n$/],
  [
    'serve virtio-net,slot=3 --socket @s',
    'serve virtio-net,slot=3: slot= is for a device of a machine; a client has its own',
  ],
  [
    'serve virtio-net,interface=group --socket @s',
    'serve virtio-net,interface=group: interface= is for a device of a machine; a client has its own',
  ],
  ['serve virtio-net --socket @s --trace x', /^tsvisor: --trace: 'x' is not one of exit, /],
  ['serve virtio-net --socket @s --view', '--view: no device shows a picture; --device vgpu-small would'],
  ['serve vgpu-small --socket @s --view 70000', PORT('70000')],
  ['serve vgpu-small --socket @s --view -1', PORT('-1')],
  ['serve vgpu-small --socket @s --screenshot @no/p', '--screenshot: there is no directory @no'],
  ['serve virtio-net,mtu --socket @s', "serve virtio-net,mtu: 'mtu' is not of the form key=value"],
  ['serve virtio-net,mtu=1,mtu=2 --socket @s', 'serve virtio-net,mtu=1,mtu=2: mtu= is given twice'],
  ['serve ,x=1 --socket @s', /^tsvisor: serve ,x=1: an address is missing: /],
  [
    'serve virtio-net --socket @s --plugin ./no.mjs',
    /^tsvisor: --plugin: '\.\/no\.mjs': there is no file \//,
  ],
];

const MEANT_ADDRESS = (text: string, meant: string) =>
  `'${text}': is not a PCI address; did you mean ${meant}?`;
const NO_ADDRESS = (text: string) => `'${text}': is not a PCI address, such as 0000:01:00.0`;

const HOST: readonly Row[] = [
  ['devices x', NO_ADDRESS('x')],
  ["devices ' 0000:01:00.0'", MEANT_ADDRESS(' 0000:01:00.0', '0000:01:00.0')],
  ['devices 1:0.0', MEANT_ADDRESS('1:0.0', '0000:01:00.0')],
  ['devices 01:00', MEANT_ADDRESS('01:00', '0000:01:00.0')],
  ['devices AF:1F', MEANT_ADDRESS('AF:1F', '0000:af:1f.0')],
  ['devices pci_0000_01_00_0', MEANT_ADDRESS('pci_0000_01_00_0', '0000:01:00.0')],
  [
    'devices /sys/bus/pci/devices/0000:01:00.1',
    MEANT_ADDRESS('/sys/bus/pci/devices/0000:01:00.1', '0000:01:00.1'),
  ],
  ['devices 0000:01:20.0', NO_ADDRESS('0000:01:20.0')],
  ['devices 0000:01:00.8', NO_ADDRESS('0000:01:00.8')],
  ['devices 0000:01:00.0,0000:01:00.1', NO_ADDRESS('0000:01:00.0,0000:01:00.1')],
  ["devices ''", 'devices: an ADDRESS is missing: see tsvisor devices --help'],
  ['devices --jsn', '--jsn: there is no such option; did you mean --json? See tsvisor devices --help'],
  ['devices --json=yes', "--json: takes no value, and 'yes' is given"],
  ['devices 01:00.0 02:00.0', "'02:00.0': devices takes one argument, an ADDRESS"],
  ['types virtio-net', "'virtio-net': types takes no argument"],
  ['types --vgpu-card a,memory=12', "--vgpu-card: '12' is not one of 64M, 128M, 256M"],
  ['types --vgpu-card a --vgpu-card a', "--vgpu-card: a is vgpuCards[0]'s"],
  ['types --vgpu-card a,placement=x', "--vgpu-card: 'x' is none of mixed-size, same-size, first-fit"],
  [
    'types --vgpu-card a,size=1',
    /^tsvisor: --vgpu-card a,size=1: there is no option size; there are memory=/,
  ],
  ['serve vgpu-half --socket @s --vgpu-card a,engines=x', /engines=x is not a number from 1 to 1024/],
  ['serve vgpu-half --socket @s --vgpu-card a,engines=0', /^tsvisor: --vgpu-card: /],
  ['types --plugin ./no.mjs', /^tsvisor: --plugin: '\.\/no\.mjs': there is no file .*no\.mjs/],
  ['mdev', 'mdev: a command is missing: list, create or remove; see tsvisor mdev --help'],
  ['mdev list x', "'x': mdev list takes no argument"],
  ['mdev create', 'mdev create: a TYPE is missing: see tsvisor mdev create --help'],
  ['mdev create mtty-1 --uuid 1', "--uuid: '1' is not a UUID"],
  ["mdev create ''", 'mdev create: a TYPE is missing: see tsvisor mdev create --help'],
  ['mdev lst', 'lst: there is no such command; did you mean list? See tsvisor mdev --help'],
  ['mdev --json list', '--json: a command comes first: tsvisor mdev list --json; see tsvisor mdev --help'],
  [
    "types --plugin ''",
    "--plugin: '': is empty: a plug-in is named by a path (./plug-in.mjs) or a package's name",
  ],
  ['mdev remove', 'mdev remove: a UUID is missing: see tsvisor mdev remove --help'],
  ['mdev remove ../mtty', "'../mtty': is not a UUID"],
  ['bind', 'bind: an ADDRESS is missing: see tsvisor bind --help'],
  ['bind 0000:01:00', MEANT_ADDRESS('0000:01:00', '0000:01:00.0')],
  ['bind 01:00.0 01:00.1', "'01:00.1': bind takes one argument, an ADDRESS"],
  ['bind 01:00.0 --driver ../vfio', "--driver: '../vfio' is not the name of a driver"],
  ['bind 01:00.0 --driver', '--driver: needs a value: --driver DRIVER'],
  ['unbind', 'unbind: an ADDRESS is missing: see tsvisor unbind --help'],
  ['unbind 01:00.0 --driver=', "--driver: '' is not the name of a driver"],
  ['unbind 01:00.0 --override e1000e', '--override: needs --driver'],
  ['unbind 01:00.0 --driver a --group', '--group: cannot be given with --driver: name each function'],
  ['conform', 'conform: the SOCKET of a server is missing: see tsvisor conform --help'],
  ['conform /a /b', "'/b': conform takes one argument, the SOCKET of a server"],
  ['conform /a --timeout 0', "--timeout: '0' is not a number of seconds, 600 at most"],
  ['conform /a --timeout 1e3', "--timeout: '1e3' is not a number of seconds, 600 at most"],
  [
    'conform /a --only dma-map-over-sam',
    "--only: there is no rule 'dma-map-over-sam'; did you mean dma-map-over-same?",
  ],
  [
    'conform --listen /a --only version-frist',
    "--only: there is no rule 'version-frist'; did you mean version-first?",
  ],
  ['conform --listen /a -- true', "COMMAND: has no {} in the place of the socket's path"],
];

const NOT_OF_THE_HOST =
  'check takes a PCI address such as 0000:01:00.0, the UUID of a mediated device, or mdev:TYPE';

const CHECKED: readonly Row[] = [
  ['check', 'check: names no device: tsvisor check 0000:01:00.0 --memory 1G'],
  ['check --json', 'check: names no device: tsvisor check 0000:01:00.0 --memory 1G'],
  ['check virtio-net', `check virtio-net: 'virtio-net' is no device of the host: ${NOT_OF_THE_HOST}`],
  ['check fd:7', `check fd:7: 'fd:7' is no device of the host: ${NOT_OF_THE_HOST}`],
  ['check 01:00', "check 01:00: '01:00' is no device of the host; did you mean 0000:01:00.0?"],
  ['check mdev:', 'check mdev:: a type is missing: mdev:TYPE; tsvisor types lists them'],
  ['check 99:00.0 0000:99:00.0', 'check 0000:99:00.0: is given twice'],
  [
    'check 99:00.0,slot=99',
    'check 99:00.0,slot=99: slot=99 is not a PCI slot: 1 to 31, or a function of one: 5.1',
  ],
  [
    'check 99:00.0,bnd=vfio-pci',
    /^tsvisor: check 99:00\.0,bnd=vfio-pci: .*; did you mean bind\? There are:\n/,
  ],
  ['check 99:00.0 --interface cdev', "--interface: 'cdev' is neither group nor iommufd"],
  ['check 99:00.0,interface=x', "check 99:00.0,interface=x: 'x' is neither group nor iommufd"],
  ['check 99:00.0 --memory abc', SIZE('abc')],
  ['check 99:00.0 --memory 0', '--memory: 0 bytes are no whole number of pages of 4096 bytes'],
  ['check 99:00.0 --memory 4097', '--memory: 4097 bytes are no whole number of pages of 4096 bytes'],
  ['check 99:00.0,vf-token=secret', /^tsvisor: check 99:00\.0,vf-token=secret: .*'secret' is not a UUID/],
  ['check 99:00.0,nope=1', /^tsvisor: check 99:00\.0,nope=1: .*no option nope/],
  ['check 99:00.0,bind', "check 99:00.0,bind: 'bind' is not of the form key=value"],
  ['check 99:00.0 --cpus 2', NO_OPTION('--cpus', 'check')],
];

const NAMES =
  'info, devices, maps, counters, timeline, console, screenshot, attach, detach, snapshot, migrate, fault, resize, input, pause, resume, reset, power-button, stop';
const CONTROL: readonly Row[] = [
  ['ctl', 'ctl: takes the socket of a machine: tsvisor ctl SOCKET COMMAND'],
  ['ctl @s', `ctl: a command is missing: ${NAMES}`],
  ['ctl @s fly', `ctl fly: there is no such command: ${NAMES}`],
  ['ctl @s inf', 'ctl inf: there is no such command; did you mean info?'],
  ['ctl info @s', 'ctl @s: the socket comes first: tsvisor ctl @s info'],
  ["ctl '' info", 'ctl: a unix socket needs its path: unix:/run/user/1000/sock'],
  [`ctl /${'x'.repeat(200)} info`, /^tsvisor: ctl: a unix socket's path has at most 107 bytes/],
  ['ctl @directory info', 'ctl: @directory is a directory, and no socket'],
  ['ctl @file info', 'ctl: @file is a file, and no socket'],
  ['ctl unix:@fifo info', 'ctl: @fifo is a FIFO, and no socket'],
  ['ctl @s info --follow', '--follow: is not for ctl info'],
  ['ctl @s info extra', "ctl info: 'extra' is one argument too many"],
  ['ctl @s attach', 'ctl attach: a DEVICE is missing: tsvisor ctl SOCKET attach DEVICE'],
  [
    'ctl @s attach virtio-net,slot=x',
    'attach virtio-net,slot=x: slot=x is not a PCI slot: 1 to 31, or a function of one: 5.1',
  ],
  ['ctl @s detach', 'ctl detach: a SLOT is missing: tsvisor ctl SOCKET detach SLOT'],
  ...['x', '0', '32', '-1', '3.0', '0x3'].map(
    (text): Row => [
      `ctl @s detach ${text.startsWith('-') ? `-- ${text}` : text}`,
      `ctl detach: '${text}' is not a PCI slot: 1 to 31`,
    ],
  ),
  ...['x', '-1', '1.5', '99999'].map(
    (text): Row => [
      `ctl @s detach 3 --timeout ${text}`,
      `--timeout: '${text}' is not a number of seconds, 0 to 3600`,
    ],
  ),
  ['ctl @s screenshot', 'ctl screenshot: a FILE is missing: tsvisor ctl SOCKET screenshot FILE'],
  ['ctl @s screenshot @directory', 'ctl screenshot: @directory is a directory'],
  ['ctl @s resize 3', 'ctl resize: a SIZE is missing: tsvisor ctl SOCKET resize SLOT SIZE'],
  ['ctl @s resize 3 1280', "ctl resize: '1280' is not a size WIDTHxHEIGHT: 1280x720"],
  ['ctl @s resize x 1280x720', "ctl resize: 'x' is not a PCI slot: 1 to 31"],
  ['ctl @s resize 3.1 1280x720', "ctl resize: '3.1' is not a PCI slot: 1 to 31"],
  ['ctl @s pause --head 1', '--head: is not for ctl pause'],
  ['ctl @s resize 3 1280x720 --head -1', /^tsvisor: --head/],
  ['ctl @s screenshot @p.png --slot 99', "--slot: '99' is not a PCI slot: 1 to 31"],
];

const TEXTS: readonly Row[] = [
  ['man page', 'man: takes no argument'],
  ['man --json', '--json: there is no such option; see tsvisor man --help'],
  ['completion BASH', "completion: 'BASH' is not one of bash, zsh, fish; did you mean bash?"],
  ['help mdev nope', 'nope: there is no such command: list, create or remove; see tsvisor mdev --help'],
];

testWrongInputs({ SERVED, HOST, CHECKED, CONTROL, TEXTS });
