import { expect, test } from 'vitest';
import type { FuseNode } from '../sys/fuse-tree.js';
import { type VfCard, vfSysfs } from './vf-sysfs.js';

/** A card with one VF, and what its attribute hears. */
function world() {
  const heard: [number, number][] = [];
  const told: string[] = [];
  const card: VfCard = {
    totalVfs: 1,
    numVfs: 1,
    setNumVfs: () => {},
    current: () => 0,
    creatable: () => [],
    setType: (_vf, id, pid) => heard.push([id, pid]),
    socket: () => undefined,
    refused: (error) => {
      told.push(error.message);
      return error;
    },
  };
  const find = (path: string) =>
    path.split('/').reduce<FuseNode | undefined>((node, name) => {
      return node?.kind === 'folder' ? node.entries()[name] : undefined;
    }, vfSysfs(card));
  const attribute = find('devices/pci0000:40/0000:41:00.4/nvidia/current_vgpu_type');
  const write = (text: string) => {
    if (attribute?.kind === 'attribute') attribute.write?.(text, 42);
  };
  return { write, heard, told };
}

test.each(['5', '5\n', '+5', '5\0', '5\n\0', '5\0rest of a buffer'])(
  '%j is a number, as in the kernel',
  (text) => {
    const { write, heard } = world();
    write(text);
    expect(heard).toEqual([[5, 42]]);
  },
);

test.each(['', '\n', '\0', '\u00005', ' 5', '5 ', '5\n\n', '-1', '0x5', 'half', '5,5', '99999999999'])(
  '%j is EINVAL, and told',
  (text) => {
    const { write, heard, told } = world();
    expect(() => write(text)).toThrowError(/EINVAL/);
    expect([heard, told]).toEqual([[], [expect.stringMatching(/41:00\.4.*\n.*decimal number/)]]);
  },
);
