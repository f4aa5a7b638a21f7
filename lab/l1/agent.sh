#!/bin/bash
# Process 1 of L1 after init.sh: reads command numbers from a virtio-serial port, runs /run/lab/NUMBER.sh, and sends
# its output to the same port, followed by a trailer with its status (read by mailbox.ts). End of file on the port means
# that the lab's process has ended; L1 then ends too.
project=$1
export HOME=/root TERM=dumb LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
mkdir -p /dev/pts /dev/shm /usr/local/bin
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
ln -s /proc/self/fd /dev/fd
ip link set lo up
ln -s /mnt/node/node /usr/local/bin/node
for command in $(sed -n 's/^\([a-z0-9-]*\)() {.*/\1/p' "$project/lab/l1/commands.sh"); do
  printf '#!/bin/sh\nexec bash "%s" %s "$@"\n' "$project/lab/l1/commands.sh" "$command" > "/usr/local/bin/$command"
  chmod +x "/usr/local/bin/$command"
done
echo L1: loading KVM > /dev/console
modprobe kvm_amd
cd "$project"

if grep -qw lab.shell /proc/cmdline; then
  setsid -c env -- $(cat /run/lab/environment) TERM=vt100 bash </dev/ttyS0 >/dev/ttyS0 2>&1
  poweroff -f
fi

until port=$(grep -lxs lab /sys/class/virtio-ports/*/name); do sleep 0.05; done
port=${port%/name}
exec 3<>"/dev/${port##*/}"
mkfifo /run/out
cat /run/out >&3 &
exec 4<>/run/out
finish() { printf '\036LAB %s %s\036' "$1" "$2" >&4; } # format: mailbox.ts
finish 0 0
while read -r number limit <&3; do
  env -- $(cat /run/lab/environment) timeout -k 5 "$limit" bash "/run/lab/$number.sh" </dev/null >&4 2>&1 3>&- 4>&-
  finish "$number" $?
done
poweroff -f
