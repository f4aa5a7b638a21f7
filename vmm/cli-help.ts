/** What the command line offers: its commands and their options. */
import { DOOR_NAMES } from '../sys/ioctl-door.js';
import { CONFORM } from './cli-help-conform.js';
import { HOST_COMMANDS, vgpuCard } from './cli-help-host.js';
import { type Command, type OptionRow, overviewText } from './command-line.js';
import { LOG_LEVELS } from './log-level.js';

const help: OptionRow = { name: 'help', short: 'h', help: ['print this'] };

const plugin: OptionRow = {
  name: 'plugin',
  value: 'MODULE',
  isRepeatable: true,
  help: [
    'load a plug-in, ./FILE.mjs or a package: vendor drivers,',
    'providers, ports of the machine (repeatable)',
  ],
};

const trace: OptionRow = {
  name: 'trace',
  value: 'CHANNEL',
  words: ['exit', 'region', 'memory', 'vfio', 'vfioUser', 'unclaimed', 'guestMisuse', 'door'],
  isRepeatable: true,
  help: [
    'print the events of a channel: exit, region, memory,',
    'vfio, vfioUser, unclaimed, guestMisuse, door (repeatable)',
  ],
};

const view: OptionRow = {
  name: 'view',
  value: 'PORT',
  isValueOptional: true,
  help: [
    'show pictures and state live on a page at 127.0.0.1;',
    'without PORT, a free one; its URL is printed',
  ],
};

const EXIT = [
  '',
  'The exit code is 64 for wrong usage or a wrong file, 69 if the host lacks',
  'something, 74 if the output cannot be written, 130 after SIGINT, 143 after',
];

export const RUN: Command = {
  name: 'run',
  brief: 'boot a guest with an assigned device',
  summary: [
    'Boots a guest with an assigned device. With no options that is the built-in',
    'guest with a virtio-net NIC, whose wire ends at a responder in this process.',
  ],
  options: [
    {
      name: 'net',
      value: 'BACKEND',
      words: ['responder', 'tap:', 'vhost:', 'passt', 'passt-socket:'],
      help: [
        "where the NIC's wire ends: responder, tap:NAME, passt,",
        'vhost:NAME, a TAP whose packets the kernel moves,',
        'responder:corrupt=N, passt:tcp-ports=8080:80,',
        'passt-socket:PATH, tap:fd=N for an open descriptor',
      ],
    },
    {
      name: 'pcap',
      value: 'FILE',
      help: ["captures the NIC's frames, for tcpdump and tshark; of a", 'NIC of --device: pcap=FILE there'],
    },
    {
      name: 'device',
      value: 'DEVICE',
      words: ['none'],
      isRepeatable: true,
      help: [
        'assign this device instead (repeatable); slot=N puts it',
        'at that PCI slot, 1 to 31, slot=N.F makes it function F',
        'of it; interface=iommufd opens it by its cdev; none: no',
        'device',
      ],
    },
    {
      name: 'disk',
      value: 'FILE',
      isRepeatable: true,
      help: [
        'add a virtio-blk disk (repeatable): a file or a block',
        'device; ,readonly; ,overlay=FILE takes what the guest',
        'writes; further options as of virtio-blk below',
      ],
    },
    {
      name: 'memory',
      value: 'SIZE',
      help: [
        'guest memory: 64M (the default), 1G; ,shared=on lets',
        'other processes map it, ,prefault=on populates it at',
        'start, ,hugepages=on (or 1G) makes it of huge pages',
      ],
    },
    { name: 'cpus', value: 'N', help: ['virtual CPUs, 1 (the default) to 64'] },
    { name: 'guest', value: 'FILE', help: ['an ELF64 image instead of the built-in guest'] },
    { name: 'kernel', value: 'FILE', help: ['boot Linux: a bzImage, or a vmlinux with a PVH entry'] },
    { name: 'initrd', value: 'FILE', help: ['its initial RAM disk'] },
    {
      name: 'append',
      value: 'TEXT',
      help: [
        "the kernel's command line; for the built-in guest, more",
        "words: 'pings=3 mtu=2000 udp=1000,1024,16'; all of them",
        'are listed in vmm/guest/abi.h of the package',
      ],
    },
    {
      name: 'serial',
      value: 'END',
      isRepeatable: true,
      words: ['stdio', 'pty', 'unix:', 'file:', 'none'],
      help: [
        "connect COM1, and the next ones where repeated, Linux's",
        'ttyS0 to ttyS3: stdio is this terminal (Ctrl-A h lists',
        'its keys); pty makes one; unix:PATH listens; file:PATH',
        'takes the output; none leaves the port out',
      ],
    },
    { name: 'no-reboot', help: ['end the run when the guest requests a reset'] },
    {
      name: 'config',
      value: 'FILE',
      help: ["a machine's whole configuration as JSON; other options", 'override it'],
    },
    {
      name: 'restore',
      value: 'FOLDER',
      help: [
        'go on with a machine that tsvisor ctl snapshot saved,',
        'from its folder; --net, --serial, --device SLOT,KEY=VALUE',
        'choose its back-ends anew: docs/snapshots.md',
      ],
    },
    {
      name: 'incoming',
      value: 'ADDRESS',
      words: ['unix:', 'tcp:'],
      help: [
        'go on with a machine that tsvisor ctl migrate moves here:',
        'unix:PATH or tcp:HOST:PORT; --serial and --device as for',
        '--restore: docs/moving.md',
      ],
    },
    plugin,
    vgpuCard,
    {
      name: 'ffi',
      value: 'LIBRARY',
      words: ['auto', ...DOOR_NAMES],
      help: [
        'calls KVM_RUN: auto (the default) takes the first of',
        'node:ffi, koffi and ffi-rs that is there and works',
      ],
    },
    {
      name: 'dirty-ring',
      value: 'ENTRIES',
      help: [
        'KVM lists what the guest writes during a move in a ring',
        'for each CPU, not in bitmaps: 4096, or another power of',
        'two from 1024 to 65536; docs/moving.md',
      ],
    },
    trace,
    {
      name: 'sandbox',
      value: 'MODE',
      words: ['on', 'strict', 'log', 'off'],
      isValueOptional: true,
      help: [
        'allow this process only what the machine needs: on (the',
        'default), strict, log or off; ,read=PATH,write=PATH allow',
        'more files; docs/sandbox.md says what it stops',
      ],
    },
    {
      name: 'screenshot',
      value: 'FILE',
      help: ["save a display's picture as PNG at the end of the run,", 'and at each SIGUSR2'],
    },
    view,
    {
      name: 'api',
      value: 'unix:PATH',
      words: ['unix:'],
      help: [
        'be controlled over HTTP on this socket, which is made for',
        'you alone: tsvisor ctl, curl, docs/control.md',
      ],
    },
    { name: 'display', value: 'SLOT', help: ['the PCI slot of that display; the first one by default'] },
    { name: 'json', help: ['the report, or the error, as one line of JSON'] },
    {
      name: 'log-level',
      value: 'LEVEL',
      words: LOG_LEVELS,
      help: [
        'print what is this important: error, warn, info (steps',
        'and the report; the default without --serial stdio),',
        'debug (the events of vfio and vfioUser, too)',
      ],
    },
    { name: 'quiet', help: ["print only the guest's output: --log-level error"] },
    help,
  ],
  takesDevices: true,
  more: [...EXIT, "SIGTERM, 70 if the guest crashed, and the guest's verdict otherwise."],
};

export const SERVE: Command = {
  name: 'serve',
  brief: 'offer a device to another VMM through vfio-user',
  argument: 'DEVICE... --socket PATH...',
  summary: [
    'Offers devices to other VMMs through the vfio-user protocol, each to one client',
    'at a time. With --vf-sysfs, they are the VFs of a vGPU card, to which other',
    'programs give types.',
  ],
  options: [
    {
      name: 'socket',
      value: 'PATH',
      isRepeatable: true,
      help: ['where clients connect; one for each device, in order'],
    },
    {
      name: 'vf-sysfs',
      value: 'FOLDER',
      help: [
        'in place of devices: mount a sysfs there, of a vGPU card',
        'with a VF for each --socket; the ID of a type, written to',
        "a VF's nvidia/current_vgpu_type, makes it a device",
      ],
    },
    {
      name: 'vf-id',
      value: 'VENDOR:DEVICE',
      help: ['the PCI ID that the card shows there, for software that', 'looks for it: 10de:26b9'],
    },
    {
      name: 'trust-client',
      help: [
        'map memory that the client could truncate, which would',
        'kill this process; without it, such memory is accessed by',
        'message',
      ],
    },
    plugin,
    vgpuCard,
    trace,
    {
      name: 'screenshot',
      value: 'FILE',
      help: ["save the client's picture as PNG at the end, and at", 'each SIGUSR2'],
    },
    view,
    {
      name: 'log-level',
      value: 'LEVEL',
      words: LOG_LEVELS,
      help: [
        'print what is this important: error, warn (what is',
        'refused to a client), info (the default), debug (the',
        'events of vfio and vfioUser, too)',
      ],
    },
    { name: 'quiet', help: ['print only errors: --log-level error'] },
    help,
  ],
  takesDevices: true,
  more: [...EXIT, 'SIGTERM, and 0 otherwise.'],
};

export const CHECK: Command = {
  name: 'check',
  brief: 'say whether devices of the host can be assigned',
  argument: 'ADDRESS...',
  summary: [
    'Says whether devices of the host can be assigned to a machine: each rule with',
    'its verdict, what that follows from, and the commands that mend it. Opens and',
    'changes nothing.',
  ],
  options: [
    {
      name: 'memory',
      value: 'SIZE',
      help: ["the guest's memory, 64M or 1G, for the rules about it"],
    },
    {
      name: 'interface',
      value: 'NAME',
      words: ['group', 'iommufd'],
      help: ['group (the default) or iommufd: how run is to open them'],
    },
    { name: 'json', help: ['the report, or the error, as one line of JSON'] },
    help,
  ],
  more: [
    '',
    'An ADDRESS is as for --device of run, of the host only: a PCI address, the',
    'UUID of a mediated device, or mdev:TYPE, with options behind commas:',
    '',
    '  tsvisor check 0000:01:00.0 --memory 1G',
    '  tsvisor check 0000:01:00.0,bind=vfio-pci 0000:01:00.1 --interface iommufd',
    '',
    'The exit code is 0 if no rule fails, though some may warn, 1 if one fails, 64',
    'for wrong usage, 74 if the output cannot be written.',
  ],
};

export const CTL: Command = {
  name: 'ctl',
  brief: 'control a machine that runs with --api',
  argument: 'SOCKET COMMAND [ARGUMENT]',
  summary: ['Controls a machine that was started with tsvisor run --api unix:SOCKET.'],
  options: [
    { name: 'json', help: ['print the answer as JSON'] },
    { name: 'follow', help: ['console: print also what comes, until the end'] },
    {
      name: 'type',
      help: ['console: type standard input at it; at a terminal, until', 'Ctrl-A x, and print what comes'],
    },
    { name: 'force', help: ['detach: do not ask the guest'] },
    { name: 'timeout', value: 'SECONDS', help: ['detach: how long the guest may take; 30 by default'] },
    {
      name: 'detach-unmigratable',
      help: ['snapshot: unplug what cannot be saved, then plug it again'],
    },
    { name: 'downtime', value: 'MS', help: ['migrate: how long the guest may stand still; 300 ms'] },
    { name: 'slot', value: 'SLOT', help: ['screenshot: the PCI slot of the display'] },
    { name: 'head', value: 'N', help: ['resize: which of its screens; 0 by default'] },
    help,
  ],
  more: [
    '',
    'Commands:',
    '',
    '  info                 what the machine is, and what it does now',
    '  devices              the assigned devices, their BARs and interrupts',
    '  maps                 what is mapped: addresses, page sizes, costs',
    "  counters, timeline   exits and the devices' counters; what VFIO did",
    '  console              the last 64 KiB of the serial output; typing at it',
    "  screenshot FILE      save a display's picture as PNG",
    '  attach DEVICE        as --device of run; several: all or none',
    '  detach SLOT          once the guest has released it',
    '  fault SLOT FAULTS    of a testcard, SLOT as 3 or 3.1: removed, none',
    '  resize SLOT SIZE     of a screen, 1280x720, which the guest may follow',
    '  input SLOT EVENTS    of a virtio-input, TYPE:CODE:VALUE with commas between',
    '  snapshot FOLDER      save the machine, for tsvisor run --restore FOLDER',
    '  migrate ADDRESS      move the machine to tsvisor run --incoming ADDRESS',
    '  pause, resume, reset, power-button, stop',
    ...EXIT,
    'SIGTERM, and 0 otherwise.',
  ],
};

const COMPLETION: Command = {
  name: 'completion',
  brief: 'print a script that completes commands in a shell',
  argument: 'SHELL',
  words: ['bash', 'zsh', 'fish'],
  summary: [
    'Prints a script for bash, zsh or fish that completes commands, options, devices',
    'and files. For bash: source <(tsvisor completion bash)',
  ],
  options: [help],
  more: [],
};

const MAN: Command = {
  name: 'man',
  brief: 'print the manual page',
  summary: ['Prints the manual page: tsvisor man | man -l -'],
  options: [help],
  more: [],
};

export const COMMANDS: readonly Command[] = [
  RUN,
  SERVE,
  CTL,
  CHECK,
  ...HOST_COMMANDS,
  CONFORM,
  COMPLETION,
  MAN,
];

export const EXAMPLES = [
  '  tsvisor run                      the built-in guest, and a NIC to ping through',
  '  tsvisor run --kernel FILE --initrd FILE --memory 1G --device 0000:01:00.0',
  '  tsvisor serve virtio-net,net=passt --socket /run/nic.sock',
];

/** `tsvisor --help` */
export const OVERVIEW = overviewText(
  'tsvisor: assigns devices to virtual machines, in TypeScript',
  COMMANDS,
  [
    '  COMMAND --help       options, devices and exit codes',
    '  -V, --version        print the version',
    '  -h, --help           print this',
    '',
    ...EXAMPLES,
  ],
);
