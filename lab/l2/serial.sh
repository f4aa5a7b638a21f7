#!/bin/sh
# The first program of L2 in serial.nightly.lab.test.ts: a login at ttyS0, and at ttyS1 and ttyS2 a program that answers lines.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /etc /root
echo 'root::0:0::/root:/bin/sh' > /etc/passwd
for port in ttyS1 ttyS2; do
  (
    stty raw -echo
    while read -r line; do echo "$port heard $line"; done
  ) < /dev/$port > /dev/$port &
done
while :; do setsid getty -L 115200 ttyS0 vt100; done
