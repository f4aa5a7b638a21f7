/** The commands that show and change what the host has to assign. */
import type { Command, OptionRow } from './command-line.js';

const help: OptionRow = { name: 'help', short: 'h', help: ['print this'] };
const json: OptionRow = { name: 'json', help: ['the same as one line of JSON, an error as well'] };

export const vgpuCard: OptionRow = {
  name: 'vgpu-card',
  value: 'NAME',
  isRepeatable: true,
  help: [
    'a card that vGPUs are parts of (repeatable), with',
    ',memory=64M|128M|256M ,engines=N and ,placement=:',
    'mixed-size, same-size, first-fit; docs/vgpu.md',
  ],
};

const EXIT = [
  '',
  'The exit code is 0, 64 for wrong usage, 69 if the host lacks something or',
  'refuses, and 74 if the output cannot be written.',
];

export const DEVICES_COMMAND: Command = {
  name: 'devices',
  brief: "list the host's PCI functions and which can be assigned",
  argument: '[ADDRESS]',
  summary: [
    'Lists the PCI functions of the host, with whether a guest can have each; with',
    'an ADDRESS, all that is known of that one. What only root may read is said to',
    'be unknown.',
  ],
  options: [json, help],
  more: [
    '',
    'STATE is:',
    '',
    '  ready                a guest can have it now',
    '  in use               another process has it',
    '  bind                 tsvisor bind ADDRESS makes it ready',
    '  bind group           tsvisor bind ADDRESS --group does, as the host uses other',
    '                       devices of its IOMMU group',
    '  vGPU type            once it has one: ADDRESS,vgpu-type=NAME',
    '  no IOMMU             no IOMMU translates its DMA: no guest can have it',
    '  bridge               stays with the host',
    ...EXIT,
  ],
};

export const TYPES: Command = {
  name: 'types',
  brief: 'list the types of devices to make, with their options',
  summary: [
    'Lists the types of devices that can be made: in this process, by its vendor',
    'drivers and those of plug-ins, with the cards that they divide, and by the',
    'kernel, with the instances there are.',
  ],
  options: [
    {
      name: 'plugin',
      value: 'MODULE',
      isRepeatable: true,
      help: ["with a plug-in's types: ./FILE.mjs or a package", '(repeatable)'],
    },
    vgpuCard,
    json,
    help,
  ],
  more: EXIT,
};

export const MDEV: Command = {
  name: 'mdev',
  brief: 'list, create and remove mediated devices of the kernel',
  summary: ['Lists, creates and removes mediated devices of the kernel.'],
  options: [help],
  more: EXIT,
  commands: [
    {
      name: 'mdev list',
      brief: 'list the mediated devices',
      summary: ['Lists the mediated devices of the kernel.'],
      options: [json, help],
      more: EXIT,
    },
    {
      name: 'mdev create',
      brief: 'create one, and print its UUID',
      argument: 'TYPE',
      summary: ['Creates a mediated device of a TYPE that tsvisor types lists, and prints its', 'UUID.'],
      options: [
        { name: 'parent', value: 'PARENT', help: ['of this device, if several offer the type'] },
        { name: 'uuid', value: 'UUID', help: ['with this UUID; a random one by default'] },
        json,
        help,
      ],
      more: EXIT,
    },
    {
      name: 'mdev remove',
      brief: 'remove one that nobody uses',
      argument: 'UUID',
      summary: ['Removes a mediated device that no process has open.'],
      options: [json, help],
      more: EXIT,
    },
  ],
};

const group: OptionRow = {
  name: 'group',
  help: ['with all PCI functions of its IOMMU group, bridges', 'excepted'],
};

export const BIND: Command = {
  name: 'bind',
  brief: 'give a PCI function of the host to vfio-pci',
  argument: 'ADDRESS',
  summary: [
    'Binds a PCI function to a VFIO driver, until it is bound otherwise or the host',
    'boots, and prints the command that restores what was before. A step that fails',
    'undoes the ones before it. Needs root.',
  ],
  options: [
    {
      name: 'driver',
      value: 'DRIVER',
      words: ['vfio-pci'],
      help: ['the driver, by default vfio-pci'],
    },
    group,
    json,
    help,
  ],
  more: EXIT,
};

export const UNBIND: Command = {
  name: 'unbind',
  brief: 'give it back to the host',
  argument: 'ADDRESS',
  summary: [
    'Gives a PCI function back to the host, with the driver that the kernel chooses',
    'or that is named here. Refuses while a process has it open. Needs root.',
  ],
  options: [
    {
      name: 'driver',
      value: 'DRIVER',
      words: ['none'],
      help: ['the driver that it had before, or none'],
    },
    { name: 'override', value: 'DRIVER', help: ['the driver_override that it had before'] },
    group,
    json,
    help,
  ],
  more: EXIT,
};

export const HOST_COMMANDS: readonly Command[] = [DEVICES_COMMAND, TYPES, MDEV, BIND, UNBIND];

/** The command of this name, with all of its words. */
export const hostCommand = (name: string): Command =>
  HOST_COMMANDS.flatMap((each) => [each, ...(each.commands ?? [])]).find(
    (each) => each.name === name,
  ) as Command;
