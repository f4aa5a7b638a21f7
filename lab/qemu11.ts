/** A guest under Debian's QEMU 11 on this machine, in software emulation: its program and the arguments that all such guests have. */
import { join } from 'node:path';
import { imageFolder } from './images.js';
import { programOf, qemu11, rootOf } from './userland.js';

const MEMORY_MIB = 256;

/** QEMU with what it finds its firmware by. */
export function qemu11Command(): string[] {
  const root = rootOf(qemu11);
  const folders = ['usr/share/seabios', 'usr/share/qemu', 'usr/lib/ipxe/qemu'];
  return [
    ...programOf(qemu11, 'usr/bin/qemu-system-x86_64'),
    ...folders.flatMap((path) => ['-L', join(root, path)]),
  ];
}

/** What boots the lab's kernel with memory that devices of other processes can map, and its console on standard output. */
export const guestArguments = (initrd: string, line: string): string[] => [
  ...['-accel', 'tcg', '-machine', 'q35,memory-backend=mem', '-m', `${MEMORY_MIB}`, '-cpu', 'max'],
  ...['-object', `memory-backend-memfd,id=mem,size=${MEMORY_MIB}M,share=on`],
  ...['-nodefaults', '-no-reboot', '-serial', 'stdio'],
  ...['-kernel', join(imageFolder, 'vmlinuz'), '-initrd', initrd, '-append', line],
];

/** A device that is served at a socket. */
export const clientOf = (path: string): string[] => [
  '-device',
  JSON.stringify({ driver: 'vfio-user-pci', socket: { path, type: 'unix' } }),
];
