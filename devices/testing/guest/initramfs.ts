import { type CpioEntry, S_IFDIR, S_IFREG } from './cpio.js';

/**
 * The guest's first program: it mounts what programs expect, and runs the commands that come in by the second serial port,
 * one at a time. Each is a line, a word that ends its output and the command in base64.
 */
const init = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=dumb
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
ip link set lo up 2>/dev/null
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
printf '\\036ready\\n' >&3
while read -r word command <&3; do
  echo "$command" | base64 -d > /tmp/command
  setsid sh /tmp/command </dev/null >&3 2>&1 3>&-
  printf '\\036%s %s\\n' "$word" "$?" >&3
done
`;

const folders = ['bin', 'dev', 'proc', 'sys', 'tmp', 'etc'];

/** Entries of an initramfs that waits for commands; `more` come last, and may replace none. */
export const commandEntries = (busybox: Uint8Array, more: readonly CpioEntry[]): CpioEntry[] => [
  ...folders.map((path) => ({ path, mode: S_IFDIR | 0o755 })),
  { path: 'bin/busybox', mode: S_IFREG | 0o755, data: busybox },
  { path: 'init', mode: S_IFREG | 0o755, data: Buffer.from(init) },
  ...more,
];
