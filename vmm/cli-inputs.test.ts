/** Wrong inputs of the command line: for each the status, and what is said. None of them needs /dev/kvm. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createMttyDriver } from '../devices/mtty/driver.js';
import { createVgpuDriver } from '../devices/vgpu/driver.js';
import { createVirtioNetDriver } from '../devices/virtio-net/driver.js';
import type { EventThread } from '../sys/event-task.js';
import { VfioCore } from '../vfio/core/core.js';
import { hostProvider } from '../vfio/host/index.js';
import { userProvider } from '../vfio/user/index.js';
import { errorLines, errorStatus } from './cli-error.js';
import { COMMANDS, OVERVIEW, RUN, SERVE } from './cli-help.js';
import { main } from './cli-main.js';
import { helpText } from './command-line.js';
import type { ConfigError } from './config-error.js';
import { parseAddress } from './device-address.js';
import { checkDevices } from './device-check.js';
import { Output } from './output.js';
import { tsvisor } from './testing/machines.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-inputs-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const CONFIGS: Readonly<Record<string, string>> = {
  'list.json': '[]',
  'number.json': '42',
  'null.json': 'null',
  'text.json': '"x"',
  'empty.json': '',
  'cut.json': '{ "memory": ',
  'twice.json': '{ "memory": "64M", "vcpus": 1, "memory": "1G" }',
  'twice-below.json': '{ "devices": [{ "address": "a", "options": { "x": "1", "\\u0078": "2" } }] }',
  'wheels.json': '{ "wheels": 4 }',
  'vcpus.json': '{ "vcpus": "2" }',
  'null-value.json': '{ "vcpus": null }',
  'memory.json': '{ "memory": -4096 }',
  'devices.json': '{ "devices": { "address": "virtio-net" } }',
  'device.json': '{ "devices": [{ "adress": "virtio-net" }] }',
  'option.json': '{ "devices": [{ "address": "virtio-net", "options": { "mtu": 9000 } }] }',
  'kernel.json': '{ "kernel": "/no/such" }',
  'plugin.json': '{ "plugins": ["./no.mjs"] }',
  'plugins.json': '{ "plugins": "./no.mjs" }',
  'serial.json': '{ "serial": ["pty", "serial"] }',
  'cmdline.json': '{ "cmdline": 5 }',
  'bom.json': '\ufeff{ "wheels": 4 }',
  file: 'text',
};

beforeAll(() => {
  for (const [name, text] of Object.entries(CONFIGS)) writeFileSync(at(name), text);
  mkdirSync(at('directory'));
  writeFileSync(at('huge'), '');
  truncateSync(at('huge'), 2 ** 31);
  writeFileSync(at('nothing.mjs'), '');
  expect(spawnSync('mkfifo', [at('fifo')]).status).toBe(0);
});

/** Arguments, and the lines on stderr. `@name` is a file of the folder. */
type Row = readonly [args: string, lines: string | RegExp];

const NUMBER_OF_CPUS = (text: string) => `--cpus: '${text}' is not a number of CPUs, 1 to 64`;
const SIZE = (text: string) => `--memory: '${text}' is not a size; write 64M, 1G or a number of bytes`;
const PORT = (text: string) => `--view: '${text}' is not a TCP port: 0 to 65535`;
const SLOT = (text: string) => `--display: '${text}' is not a PCI slot: 1 to 31`;
const DEVICE_SLOT = (text: string) =>
  `--device virtio-net,slot=${text}: slot=${text} is not a PCI slot: 1 to 31`;
const NO_OPTION = (name: string, command = 'run') =>
  `${name}: there is no such option; see tsvisor ${command} --help`;
const MEANT = (name: string, meant: string) =>
  `${name}: there is no such option; did you mean ${meant}? See tsvisor run --help`;
const FILE = (option: string, name: string, kind: string) =>
  `--${option}: ${name} is ${kind}, and must be a regular file`;

const LIST = COMMANDS.map(({ name }) => name)
  .join(', ')
  .replace(/, (?=[^,]*$)/, ' or ');

const PARSING: readonly Row[] = [
  ['', `a command is missing: ${LIST}; see tsvisor --help`],
  ['walk', `walk: there is no such command: ${LIST}; see tsvisor --help`],
  ['--cpus 2', `--cpus: there is no such command: ${LIST}; see tsvisor --help`],
  ['RUN', 'RUN: there is no such command; did you mean run? See tsvisor --help'],
  ['srve virtio-net', 'srve: there is no such command; did you mean serve? See tsvisor --help'],
  ['help srve', 'srve: there is no such command; did you mean serve? See tsvisor --help'],
  ['completion', 'completion: needs a shell: bash, zsh, fish'],
  ['completion tcsh', "completion: 'tcsh' is not one of bash, zsh, fish"],
  ['completion bsah', "completion: 'bsah' is not one of bash, zsh, fish; did you mean bash?"],
  ['completion bash zsh', 'completion: takes one shell: bash, zsh, fish'],
  ['man page', 'man: takes no argument'],
  ['run --wheels 4', NO_OPTION('--wheels')],
  ['run --wheels=4', NO_OPTION('--wheels')],
  ['run -x', NO_OPTION('-x')],
  ['run -1', NO_OPTION('-1')],
  ['run --constructor', NO_OPTION('--constructor')],
  ['run --__proto__', NO_OPTION('--__proto__')],
  ['run --CPUS 2', MEANT('--CPUS', '--cpus')],
  ['run --cpu 2', MEANT('--cpu', '--cpus')],
  ['run --socket /tmp/x', NO_OPTION('--socket')],
  ['run --trust-client', NO_OPTION('--trust-client')],
  ['serve virtio-net --memory 64M', NO_OPTION('--memory', 'serve')],
  ['serve virtio-net --json --socket @s', NO_OPTION('--json', 'serve')],
  ['run kernel', "'kernel': run takes no argument; a kernel is given with --kernel"],
  ['run -- --cpus', "'--cpus': run takes no argument; a kernel is given with --kernel"],
  ['run -', "'-': run takes no argument; a kernel is given with --kernel"],
  ['run --no-reboot=1', "--no-reboot: takes no value, and '1' is given"],
  ['run --json=', "--json: takes no value, and '' is given"],
  ['run --quiet=no', "--quiet: takes no value, and 'no' is given"],
  ['run --cpus', '--cpus: needs a value: --cpus N'],
  ['run --cpus --json', "--cpus: needs a value: --cpus N; if '--json' is to be it: --cpus=--json"],
  ['run --append --json', /^tsvisor: --append: needs a value: --append TEXT; if '--json' is to be it/],
  ['run --kernel', '--kernel: needs a value: --kernel FILE'],
  ['run --cpus 1 --cpus 2', '--cpus: is given twice'],
  ['run --append a --append b', '--append: is given twice'],
  ['run --json --json', '--json: is given twice'],
  ['run --memory 64M --memory=1G', '--memory: is given twice'],
];

const VALUES: readonly Row[] = [
  ...['abc', '0x2', '1e0', '-1', '1.5', '+1', '', ' 2', '2 ', '٢', 'NaN'].map(
    (text): Row => [`run --cpus=${text.replaceAll(' ', '_')}`, NUMBER_OF_CPUS(text.replaceAll(' ', '_'))],
  ),
  ['run --cpus 0', '--cpus: 0 is too small: 1 is the least'],
  ['run --cpus 65', '--cpus: 65 is too large: 64 is the most'],
  ['run --cpus 99999999999999999999', /^tsvisor: --cpus: 10{20} is (not a whole number|too large)/],
  ...['abc', '-5', '1.5G', '0x1000', '64MM', '1e9', '64Q', '', '-'].map(
    (text): Row => [`run --memory=${text}`, SIZE(text)],
  ),
  ['run --memory -5', SIZE('-5')],
  ['run --memory 0', '--memory: is empty; a machine needs at least one page (4096 bytes)'],
  ['run --memory 4097', '--memory: 4097 bytes is not a multiple of the page size, 4096'],
  ['run --memory 999T', /^tsvisor: --memory: \d+ MiB is more than the \d+ MiB this host has\n$/],
  ['run --memory 64M,shared', "--memory: 'shared' is none of shared=on|off, prefault=on|off"],
  ['run --memory 64M,shared=yes', "--memory: 'shared=yes' is none of shared=on|off, prefault=on|off"],
  ['run --memory 64M,', "--memory: '' is none of shared=on|off, prefault=on|off"],
  ['run --memory 64M,shared=on,shared=off', '--memory: shared= is given twice'],
  ...['abc', '-1', '70000', '0x50', '1.5', '99999999'].map(
    (text): Row => [`run --device vgpu-small --view ${text}`, PORT(text)],
  ),
  ...['one', '0', '32', '99', '-1', '0x3', '3.0', ''].map(
    (text): Row => [`run --device vgpu-small --view --display=${text}`, SLOT(text)],
  ),
  ['run --trace nothing', /^tsvisor: --trace: 'nothing' is not one of exit, unclaimed, /],
  ['run --trace exit --trace Exit', /^tsvisor: --trace: 'Exit' is not one of /],
  ['run --trace=', /^tsvisor: --trace: '' is not one of /],
  ['run --trace constructor', /^tsvisor: --trace: 'constructor' is not one of /],
  ['run --log-level loud', "--log-level: 'loud' is not one of error, warn, info, debug"],
  ['run --quiet --log-level info', '--quiet: is --log-level error: give one of the two'],
  ['run --serial telnet', "--serial: 'telnet' is none of stdio, pty, unix:PATH, file:PATH or none"],
  [
    'run --serial stdoi',
    "--serial: 'stdoi' is none of stdio, pty, unix:PATH, file:PATH or none; did you mean stdio?",
  ],
  ['run --serial unix:', /^tsvisor: --serial: a unix socket needs its path/],
  ['run --serial unix:@file', '--serial: @file exists, and is not a socket'],
  ['run --serial unix:@no/s', '--serial: there is no directory @no'],
  [`run --serial unix:/${'x'.repeat(108)}`, /^tsvisor: --serial: a unix socket's path has at most 107 bytes/],
  ['run --serial file:', '--serial: is empty'],
  ['run --serial file:@directory', '--serial: @directory is a directory'],
  ['run --serial stdio --serial stdio', "--serial: stdio is serial[0]'s"],
  ['run --serial file:@s --serial file:@s', "--serial: file:@s is serial[0]'s"],
  [`run${' --serial pty'.repeat(5)}`, '--serial: has 5 entries, and 4 is the most'],
  ['run --serial stdio --json', '--json: prints the report on stdout, where the serial port at stdio prints'],
  ['run --ffi C', "--ffi: 'C' is not one of ffi-rs, koffi"],
  [`run --append ${'x'.repeat(4096)}`, '--append: has 4096 characters, and 4095 is the most'],
  [
    'run --cpus many --memory 0',
    `${NUMBER_OF_CPUS('many')}|--memory: is empty; a machine needs at least one page (4096 bytes)`,
  ],
];

const DEVICES: readonly Row[] = [
  ...['abc', '0x4', '1e0', '-1', '', '3.5', '100'].map(
    (text): Row => [`run --device virtio-net,slot=${text}`, DEVICE_SLOT(text)],
  ),
  ['run --device virtio-net,slot=0', '--device virtio-net,slot=0, slot: 0 is too small: 1 is the least'],
  ['run --device virtio-net,slot=32', '--device virtio-net,slot=32, slot: 32 is too large: 31 is the most'],
  [
    'run --device virtio-net,slot=5 --device mtty-1,slot=5',
    "--device mtty-1,slot=5, slot: 5 is devices[0]'s",
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

const FILES: readonly Row[] = [
  ...['guest', 'kernel'].flatMap((name): Row[] => [
    [`run --${name} /no/such`, `--${name}: there is no file /no/such`],
    [`run --${name} /dev/zero`, FILE(name, '/dev/zero', 'a character device')],
    [`run --${name} @directory`, FILE(name, '@directory', 'a directory')],
    [`run --${name} @fifo`, FILE(name, '@fifo', 'a FIFO')],
    [`run --${name} @huge`, `--${name}: @huge is larger than 1024 MiB, the most that is read`],
    [`run --${name}=`, `--${name}: is empty`],
    [`run --${name} @file/x`, `--${name}: there is no file @file/x`],
  ]),
  ['run --kernel @file --initrd /no/such', '--initrd: there is no file /no/such'],
  ['run --kernel @file --initrd /dev/zero', FILE('initrd', '/dev/zero', 'a character device')],
  ['run --kernel @file --initrd @fifo', FILE('initrd', '@fifo', 'a FIFO')],
  ['run --kernel @file --initrd @directory', FILE('initrd', '@directory', 'a directory')],
  ['run --initrd @file', '--initrd: goes with a kernel'],
  ['run --kernel @file --guest @file', '--guest: there is a kernel, too: one of them is to boot'],
  ['run --config /no/such', '--config: there is no file /no/such'],
  ['run --config /dev/zero', FILE('config', '/dev/zero', 'a character device')],
  ['run --config /dev/null', FILE('config', '/dev/null', 'a character device')],
  ['run --config @fifo', FILE('config', '@fifo', 'a FIFO')],
  ['run --config @directory', FILE('config', '@directory', 'a directory')],
  ['run --config @huge', '--config: @huge is larger than 16 MiB, the most that is read'],
  ['run --config=', '--config: there is no file '],
  ['run --plugin /no/such.mjs', "--plugin: '/no/such.mjs': there is no file /no/such.mjs"],
  [
    'run --plugin /dev/zero',
    "--plugin: '/dev/zero': /dev/zero is a character device, and must be a regular file",
  ],
  ['run --plugin @fifo', "--plugin: '@fifo': @fifo is a FIFO, and must be a regular file"],
  [
    'run --plugin @directory',
    "--plugin: '@directory': @directory is a directory, and must be a regular file",
  ],
  ['run --plugin=', '--plugin: is empty'],
  ['run --plugin no-such-package', /^tsvisor: --plugin: 'no-such-package': no package of this name/],
  ['run --plugin http://x/y.mjs', /^tsvisor: --plugin: 'http:\/\/x\/y\.mjs': a plug-in is named by a path/],
];

const HOLDS = (name: string, value: string) =>
  `--config: @${name}.json holds ${value}; a configuration is an object: { "memory": "1G" }`;
const CONFIG: readonly Row[] = [
  ['run --config @list.json', HOLDS('list', '[]')],
  ['run --config @number.json', HOLDS('number', '42')],
  ['run --config @null.json', HOLDS('null', 'null')],
  ['run --config @text.json', HOLDS('text', "'x'")],
  ['run --config @empty.json', /^tsvisor: --config: @empty\.json is not JSON: /],
  ['run --config @cut.json', /^tsvisor: --config: @cut\.json is not JSON: /],
  ['run --config @twice.json', '--config: @twice.json has the key "memory" twice in one object'],
  ['run --config @twice-below.json', '--config: @twice-below.json has the key "\\u0078" twice in one object'],
  ['run --config @wheels.json', '--config @wheels.json, (top level): there is no wheels'],
  ['run --config @bom.json', '--config @bom.json, (top level): there is no wheels'],
  ['run --config @vcpus.json', "--config @vcpus.json, vcpus: '2' is not a number"],
  ['run --config @vcpus.json --cpus 65', '--cpus: 65 is too large: 64 is the most'],
  ['run --config @null-value.json', '--config @null-value.json, vcpus: null is not a number'],
  ['run --config @memory.json', '--config @memory.json, memory: -4096 bytes is negative'],
  ['run --config @devices.json', /^tsvisor: --config @devices\.json, devices: .* is not a list\n$/],
  [
    'run --config @device.json',
    '--config @device.json, devices[0].address: is missing|--config @device.json, devices[0]: there is no adress',
  ],
  ['run --config @option.json', '--config @option.json, devices[0].options.mtu: 9000 is not a text'],
  ['run --config @kernel.json', '--config @kernel.json, kernel: there is no file /no/such'],
  ['run --config @plugin.json', "--config @plugin.json, plugins[0]: './no.mjs': there is no file @no.mjs"],
  ['run --config @plugins.json', "--config @plugins.json, plugins: './no.mjs' is not a list"],
  [
    'run --config @serial.json',
    "--config @serial.json, serial[1]: 'serial' is none of stdio, pty, unix:PATH, file:PATH or none",
  ],
  ['run --config @cmdline.json', '--config @cmdline.json, cmdline: 5 is not a text'],
  ['run --config @cmdline.json --append x', '--config @cmdline.json, cmdline: 5 is not a text'],
];

const DISPLAYS: readonly Row[] = [
  ['run --screenshot @p.png', '--screenshot: no device shows a picture; --device vgpu-small would'],
  ['run --view --display 3', '--view: no device shows a picture; --device vgpu-small would'],
  ['run --display 3', '--display: chooses what --screenshot or --view shows: give one of them'],
  [
    'run --device vgpu-small --view --display 5',
    '--display: no device in PCI slot 5 shows a picture; it could be 3 (vgpu-small)',
  ],
  [
    'run --device virtio-net --device vgpu-small --view --display 3',
    '--display: no device in PCI slot 3 shows a picture; it could be 4 (vgpu-small)',
  ],
  ['run --device vgpu-small --screenshot @directory', '--screenshot: @directory is a directory'],
  ['run --device vgpu-small --screenshot @no/p.png', '--screenshot: there is no directory @no'],
  ['run --device vgpu-small --screenshot @p/', '--screenshot: @p/ is the name of a directory'],
  ['run --device vgpu-small --screenshot=', /^tsvisor: --screenshot: /],
];

const SERVED: readonly Row[] = [
  ['serve', 'serve: takes one device: tsvisor serve virtio-net,net=passt --socket /run/nic.sock'],
  ['serve a b', 'serve: takes one device: tsvisor serve virtio-net,net=passt --socket /run/nic.sock'],
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

const NO_ADDRESS = (text: string) => `'${text}': is not a PCI address, such as 0000:01:00.0`;

const HOST: readonly Row[] = [
  ['devices x', NO_ADDRESS('x')],
  ['devices 01:00.0 02:00.0', "'02:00.0': devices takes one argument, an ADDRESS"],
  ['types virtio-net', "'virtio-net': types takes no argument"],
  ['types --plugin ./no.mjs', /^tsvisor: --plugin: '\.\/no\.mjs': there is no file .*no\.mjs/],
  ['mdev', 'mdev: a command is missing: list, create or remove; see tsvisor mdev --help'],
  ['mdev list x', "'x': mdev list takes no argument"],
  ['mdev create', 'mdev create: a TYPE is missing: see tsvisor mdev create --help'],
  ['mdev create mtty-1 --uuid 1', "--uuid: '1' is not a UUID"],
  ['mdev remove', 'mdev remove: a UUID is missing: see tsvisor mdev remove --help'],
  ['mdev remove ../mtty', "'../mtty': is not a UUID"],
  ['bind', 'bind: an ADDRESS is missing: see tsvisor bind --help'],
  ['bind 0000:01:00', NO_ADDRESS('0000:01:00')],
  ['bind 01:00.0 01:00.1', "'01:00.1': bind takes one argument, an ADDRESS"],
  ['bind 01:00.0 --driver ../vfio', "--driver: '../vfio' is not the name of a driver"],
  ['bind 01:00.0 --driver', '--driver: needs a value: --driver DRIVER'],
  ['unbind', 'unbind: an ADDRESS is missing: see tsvisor unbind --help'],
  ['unbind 01:00.0 --driver=', "--driver: '' is not the name of a driver"],
  ['unbind 01:00.0 --override e1000e', '--override: needs --driver'],
  ['unbind 01:00.0 --driver a --group', '--group: cannot be given with --driver: name each function'],
];

const NOT_OF_THE_HOST =
  'check takes a PCI address such as 0000:01:00.0, the UUID of a mediated device, or mdev:TYPE';

const CHECKED: readonly Row[] = [
  ['check', 'check: names no device: tsvisor check 0000:01:00.0 --memory 1G'],
  ['check --json', 'check: names no device: tsvisor check 0000:01:00.0 --memory 1G'],
  ['check virtio-net', `check virtio-net: 'virtio-net' is no device of the host: ${NOT_OF_THE_HOST}`],
  ['check fd:7', `check fd:7: 'fd:7' is no device of the host: ${NOT_OF_THE_HOST}`],
  ['check 01:00', `check 01:00: '01:00' is no device of the host: ${NOT_OF_THE_HOST}`],
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

const TABLES = { PARSING, VALUES, DEVICES, FILES, CONFIG, DISPLAYS, SERVED, HOST, CHECKED };
const ROWS = Object.values(TABLES).flat();

/** @returns the status and what is printed on stderr; nothing is started for any of the rows */
async function refusal(args: string): Promise<{ status: number; stderr: string }> {
  const words = args
    .replaceAll('@', `${folder}/`)
    .split(' ')
    .filter((word) => word !== '');
  try {
    await main(words, new Output());
  } catch (error) {
    const stderr = errorLines(error).join('\n').replaceAll(`${folder}/`, '@');
    return { status: errorStatus(error), stderr: `${stderr}\n` };
  }
  throw new Error(`tsvisor ${args} was accepted`);
}

describe.each(Object.entries(TABLES))('%s', (_name, rows) => {
  test.each(rows)('tsvisor %s is wrong usage', async (args, lines) => {
    const { status, stderr } = await refusal(args);
    if (lines instanceof RegExp) expect(stderr).toMatch(lines);
    else
      expect(stderr).toBe(
        `${lines.replace(/(^|\|(?=--))/g, (bar) => (bar === '' ? 'tsvisor: ' : '\ntsvisor: '))}\n`,
      );
    expect(status).toBe(64);
    // Words of the parser or the validator, of Node, or of the type system.
    expect(stderr).not.toMatch(
      /Invalid|received|expected (number|string)|undefined|Cannot read|\n +at |positional/,
    );
  });
});

const events = { run: () => expect.unreachable() } as unknown as EventThread;
const core = new VfioCore();
const drivers = [createVirtioNetDriver(), createMttyDriver(), createVgpuDriver()];
for (const driver of drivers) core.registerVendorDriver(driver, { eventThread: events });
afterAll(() => core[Symbol.dispose]());
const providers = [core.provider, hostProvider(), userProvider(events)];

const OPTIONS: readonly (readonly [device: string, text: string | RegExp])[] = [
  ['nothing', /^there is no device 'nothing'; there are:\n {4}.*virtio-net, mtty-1/],
  ['virtio-net2', /^there is no device 'virtio-net2'; /],
  ['constructor', /^there is no device 'constructor'; /],
  ['0000:00:1f', /^there is no device '0000:00:1f'; /],
  ['mdev', /^there is no device 'mdev'; /],
  ['fd:x', /^there is no device 'fd:x'; /],
  ['virtio-net,foo=bar', 'unknown option foo: expected net=, mac=, mtu='],
  ['virtio-net,net=foo', 'net: no back-end "foo": expected responder or tap or passt or passt-socket'],
  ['virtio-net,net=', /^net: no back-end ""/],
  ['virtio-net,net=tap:', 'net: a tap needs its interface name: tap:NAME'],
  ['virtio-net,net=tap:abcdefghijklmnop', /^net: interface name "abcdefghijklmnop" is longer than 15/],
  ['virtio-net,net=passt:foo=1', /^net: unknown option "foo=1"/],
  ['virtio-net,net=responder:corrupt=x', /^net: "corrupt=x": corrupt takes a whole number/],
  ['virtio-net,mtu=1', 'mtu: 1 is not a number from 68 to 65535'],
  ['virtio-net,mtu=0x600', 'mtu: 0x600 is not a number from 68 to 65535'],
  ['virtio-net,mac=01:00:00:00:00:00', /^mac: 01:00:00:00:00:00 is not the address of one station/],
  ['mtty-2,port9=pty', 'unknown option port9: expected port0=, port1='],
  ['mtty-1,port1=pty', 'unknown option port1: expected port0='],
  ['mtty-2,port0=foo', 'port0: "foo" is none of loopback, pty or unix:PATH'],
  ['mtty-2,port0=unix:', /^port0: a unix socket needs its path/],
  ['vgpu-small,xres=abc', "xres: 'abc' is not a number of pixels from 64 to 4095"],
  ['vgpu-small,xres=0x80', "xres: '0x80' is not a number of pixels from 64 to 4095"],
  ['vgpu-small,xres=4000,yres=4000', '4000x4000 needs more than the 8 MiB of vgpu-small'],
  ['vgpu-small,zres=1', 'unknown option zres: expected xres=, yres='],
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

test('devices that the host may have are not refused by their form', () => {
  const devices = [
    '0000:99:00.0',
    '99:00.0',
    '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001',
    'mdev:mtty-2',
    'vfio-user:/no/such',
  ];
  checkDevices(
    providers,
    devices.map((address) => ({ address, options: {} })),
  );
});

test('there are about 200 wrong inputs', () => {
  expect(ROWS.length + OPTIONS.length).toBeGreaterThan(175);
});

describe('the help', () => {
  test.each([OVERVIEW, ...COMMANDS.map(helpText)])('has no line over 80 columns', (text) => {
    for (const line of text.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80);
  });

  test('lists every device type and every option of each', () => {
    const text = helpText(RUN);
    const types = drivers.flatMap((driver) => driver.types);
    for (const { name } of types) expect(text).toContain(name);
    const names = types.flatMap(({ name }) => optionNames(name));
    const host = optionNames('0000:99:00.0').concat(optionNames('vfio-user:/x'));
    expect(names.length).toBeGreaterThan(9);
    expect(host.length).toBeGreaterThan(9);
    for (const name of [...names, ...host, 'slot', 'interface']) expect(text).toContain(`${name}=`);
  });

  test('of run is not that of serve', () => {
    expect(helpText(SERVE)).toContain('--trust-client');
    expect(helpText(RUN)).not.toContain('--trust-client');
    expect(helpText(RUN)).toContain('--kernel');
    expect(helpText(SERVE)).not.toContain('--kernel');
  });
});

/** As the error for an unknown option lists them. */
function optionNames(address: string): string[] {
  try {
    checkDevices(providers, [{ address, options: { 'no-such': '1' } }]);
  } catch (error) {
    const text = (error as ConfigError).problems[0]?.text ?? '';
    const listed = text.split(/expected |there are:/)[1] ?? '';
    return [...listed.matchAll(/(?:^|, |\n {4})([\w-]+)(?:=|: )/g)].map(([, name = '']) => name);
  }
  return [];
}

test.each([
  [['-h'], /^tsvisor: assigns devices/],
  [['--help'], /^tsvisor: assigns devices/],
  [['help'], /^tsvisor: assigns devices/],
  [['help', 'serve'], /^usage: tsvisor serve DEVICE/],
  [['-V'], /^tsvisor \d+\.\d+\.\d+\n$/],
  [['--version'], /^tsvisor \d+\.\d+\.\d+\n$/],
  [['run', '-h'], /^usage: tsvisor run \[options\]/],
  [['run', '--help', '--cpus', 'many'], /^usage: tsvisor run \[options\]/],
  [['serve', '--help'], /^usage: tsvisor serve DEVICE/],
])('tsvisor %j prints it, and ends with 0', (args, text) => {
  const { stdout, stderr, status } = tsvisor(args);
  expect(stdout).toMatch(text);
  expect([stderr, status]).toEqual(['', 0]);
});

test('a wrong input ends the program with its sentence and 64, and --json adds the error as JSON', () => {
  const plain = tsvisor(['run', '--cpus', 'many']);
  expect([plain.stdout, plain.stderr, plain.status]).toEqual([
    '',
    `tsvisor: ${NUMBER_OF_CPUS('many')}\n`,
    64,
  ]);
  const json = tsvisor(['run', '--json', '--cpus', 'many', '--foo']);
  expect(JSON.parse(json.stdout)).toMatchObject({ error: { status: 64, problems: [{ path: '--foo' }] } });
  expect(json.stderr).toBe(`tsvisor: ${NO_OPTION('--foo')}\n`);
  expect(json.status).toBe(64);
});
