#!/bin/sh
# First program of L1: assembles its root from the shares of the machine that runs QEMU, and starts the agent there.
# Each share is the read-only lower layer of an overlay whose upper layer is in memory: L1 may write anywhere, and
# everything is discarded at the end. Only /run/lab, the folder of this boot, is shared for writing.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# Each line on the console is progress, without which the lab gives up on a boot (patience.ts).
say() { echo "L1: $*" > /dev/console; }
say kernel is up
for word in $(cat /proc/cmdline); do
  case $word in lab.project=*) project=${word#*=} ;; esac
done
modprobe -a 9pnet_virtio 9p overlay

share() { # TAG FOLDER OPTIONS
  say mounting "$1"
  mkdir -p "$2"
  mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"
}
overlay() { # TAG FOLDER
  share "$1" "/lower/$1" ro,cache=loose
  mkdir -p "/upper/$1/files" "/upper/$1/work" "$2"
  mount -t overlay -o "lowerdir=/lower/$1,upperdir=/upper/$1/files,workdir=/upper/$1/work" "$1" "$2"
}
mkdir -p /upper
mount -t tmpfs upper /upper
overlay root /new
overlay project "/new$project"
share node /new/mnt/node ro,cache=loose
share run /new/run/lab cache=none
for folder in proc sys dev; do mount --move "/$folder" "/new/$folder"; done
say starting the agent
exec switch_root /new /bin/bash "$project/lab/l1/agent.sh" "$project"
