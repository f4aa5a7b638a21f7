/** Wrong inputs of `tsvisor run`: for each the status, and what is said. */

import { expect, test } from 'vitest';
import { COMMANDS } from './cli-help.js';
import { tsvisor } from './testing/machines.js';
import {
  type Files,
  NO_OPTION,
  NUMBER_OF_CPUS,
  PORT,
  type Row,
  SIZE,
  testWrongInputs,
} from './testing/wrong-inputs.js';

const CONFIGS: Files = {
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
  'utf16.json': '\ufeff{ "vcpus": 1 }',
  'escape.json': '\x1b[2J',
  'bom.json': '\ufeff{ "wheels": 4 }',
};

const SLOT = (text: string) => `--display: '${text}' is not a PCI slot: 1 to 31`;
const MEANT = (name: string, meant: string, command = 'run') =>
  `${name}: there is no such option; did you mean ${meant}? See tsvisor ${command} --help`;
const FILE = (option: string, name: string, kind: string) =>
  `--${option}: ${name} is ${kind}, and must be a regular file`;

const LIST = COMMANDS.map(({ name }) => name)
  .join(', ')
  .replace(/, (?=[^,]*$)/, ' or ');

const PARSING: readonly Row[] = [
  ['', `a command is missing: ${LIST}; see tsvisor --help`],
  ['walk', `walk: there is no such command: ${LIST}; see tsvisor --help`],
  ['--cpus 2', '--cpus: a command comes first: tsvisor run --cpus; see tsvisor --help'],
  ['--socket @s', '--socket: a command comes first: tsvisor serve --socket; see tsvisor --help'],
  ['--wheels', '--wheels: a command comes first, and then its options; see tsvisor --help'],
  ['--verison', '--verison: there is no such option; did you mean --version? See tsvisor --help'],
  ["''", `'': there is no such command: ${LIST}; see tsvisor --help`],
  ["'run --cpus 2'", `run --cpus 2: there is no such command: ${LIST}; see tsvisor --help`],
  ["run ''", "'': run takes no argument; a kernel is given with --kernel"],
  ["run '--memory 64M'", "'--memory 64M': is one argument: an option and its value are two, --memory 64M"],
  ['run \u2014memory 64M', "\u2014memory: begins with '\u2014', which is not the '-' of an option"],
  [
    'run \u2013\u2013memory=64M',
    "\u2013\u2013memory=64M: begins with '\u2013', which is not the '-' of an option",
  ],
  ['run -memory 64M', MEANT('-memory', '--memory')],
  ['run --wheels\x1b[2J', NO_OPTION('--wheels\\x1b[2J')],
  [`run --${'x'.repeat(400)}`, /^tsvisor: --x{118}\u2026x{29}: there is no such option/],
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
  [
    `run --memory ${'9'.repeat(400)}`,
    /^tsvisor: --memory: 9+\u20269+ bytes is not a multiple of the page size/,
  ],
  [`run --memory ${'9'.repeat(400)}Q`, /^tsvisor: --memory: '9{40}\u2026' is not a size/],
  ["run --memory '64 M'", SIZE('64 M')],
  ['run --memory +64M', SIZE('+64M')],
  ['run --cpus \uff12', NUMBER_OF_CPUS('\uff12')],
  [
    'run --memory 64M,shared',
    "--memory: 'shared' is none of shared=on|off, prefault=on|off, hugepages=on|off|2M|1G",
  ],
  [
    'run --memory 64M,shared=yes',
    "--memory: 'shared=yes' is none of shared=on|off, prefault=on|off, hugepages=on|off|2M|1G",
  ],
  ['run --memory 64M,', "--memory: '' is none of shared=on|off, prefault=on|off, hugepages=on|off|2M|1G"],
  [
    'run --memory 64M,hugepages=4M',
    "--memory: 'hugepages=4M' is none of shared=on|off, prefault=on|off, hugepages=on|off|2M|1G",
  ],
  [
    'run --memory 65M,hugepages=on',
    '--memory: 68157440 bytes is not a multiple of a huge page, 2M (2097152 bytes)',
  ],
  ['run --memory 64M,shared=on,shared=off', '--memory: shared= is given twice'],
  ...['', '4K', '-1'].map(
    (text): Row => [
      `run --dirty-ring=${text}`,
      `--dirty-ring: '${text}' is not a number of entries, such as 4096`,
    ],
  ),
  ['run --dirty-ring 1000', '--dirty-ring: is neither 0 nor a power of two from 1024 to 65536'],
  ...['abc', '-1', '70000', '0x50', '1.5', '99999999'].map(
    (text): Row => [`run --device vgpu-small --view ${text}`, PORT(text)],
  ),
  ...['one', '0', '32', '99', '-1', '0x3', '3.0', ''].map(
    (text): Row => [`run --device vgpu-small --view --display=${text}`, SLOT(text)],
  ),
  ['run --trace nothing', /^tsvisor: --trace: 'nothing' is not one of exit, unclaimed, /],
  ['run --trace exit --trace Exit', /^tsvisor: --trace: 'Exit' is not one of /],
  ['run --trace=', /^tsvisor: --trace: '' is not one of /],
  ['run --trace vfo', /; did you mean vfio\?\n$/],
  ['run --trace exit,vfio', /^tsvisor: --trace: 'exit,vfio' is not one of /],
  ['run --trace constructor', /^tsvisor: --trace: 'constructor' is not one of /],
  ['run --log-level loud', "--log-level: 'loud' is not one of error, warn, info, debug"],
  ['run --log-level wran', "--log-level: 'wran' is not one of error, warn, info, debug; did you mean warn?"],
  ["run --log-level ''", "--log-level: '' is not one of error, warn, info, debug"],
  ['run --sandbox strcit', "--sandbox: 'strcit' is none of on, strict, log, off; did you mean strict?"],
  ['run --sandbox on,read', "--sandbox: 'read' is none of read=PATH, write=PATH"],
  ['run --sandbox on,read=@no', '--sandbox: there is no file or folder @no'],
  ['run --sandbox on,read=@file,write=@no/x', '--sandbox: there is no file or folder @no/x'],
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
  ['run --serial stdio --serial stdio', "--serial: stdio is --serial stdio's"],
  ['run --serial file:@s --serial file:@s', "--serial: file:@s is --serial file:@s's"],
  [`run${' --serial pty'.repeat(5)}`, '--serial: has 5 entries, and 4 is the most'],
  ['run --serial stdio --json', '--json: prints the report on stdout, where the serial port at stdio prints'],
  ['run --api @s', "--api: '@s' is not unix:PATH: the API is on a unix socket only"],
  ['run --api unix:', /^tsvisor: --api: a unix socket needs its path/],
  ['run --api unix:@file', '--api: @file exists, and is not a socket'],
  ['run --api unix:@directory', '--api: @directory exists, and is not a socket'],
  ['run --api unix:@no/s', '--api: there is no directory @no'],
  ['run --ffi kofi', "--ffi: 'kofi' is not one of auto, node:ffi, koffi, ffi-rs; did you mean koffi?"],
  ['run --ffi C', "--ffi: 'C' is not one of auto, node:ffi, koffi, ffi-rs"],
  [`run --append ${'x'.repeat(4096)}`, '--append: has 4096 characters, and 4095 is the most'],
  [
    'run --cpus many --memory 0',
    `${NUMBER_OF_CPUS('many')}|--memory: is empty; a machine needs at least one page (4096 bytes)`,
  ],
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
  ['run --vgpu-card a/b', '--vgpu-card: the name has 1 to 32 letters, digits, -, _ and .'],
  ['run --vgpu-card a,memory=1G', "--vgpu-card: '1G' is not one of 64M, 128M, 256M"],
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
  ['run --config @utf16.json', '--config: @utf16.json is not UTF-8 text'],
  ['run --config @escape.json', /^tsvisor: --config: @escape\.json is not JSON: .*\\x1b/],
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

testWrongInputs({ PARSING, VALUES, FILES, CONFIG, DISPLAYS }, CONFIGS);

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
