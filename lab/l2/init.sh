#!/bin/sh
# The whole userspace of L2: loads drivers for its PCI devices, runs the checks named by lab.checks=, powers off. Each
# check prints one line per device, "L2-RESULT check.device ok" or "failed", or "check failed" if there is no device;
# l2.ts parses them.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo "L2-USERSPACE $(cut -d' ' -f1 /proc/uptime)"
for word in $(cat /proc/cmdline); do
  case $word in
    lab.checks=*) checks=${word#*=} ;;
    lab.url=*) url=${word#*=} ;;
    lab.then=*) then=${word#*=} ;;
    lab.md5=*) md5=${word#*=} ;;
    lab.events=*) events=${word#*=} ;;
  esac
done
load_drivers() {
  local bus
  for bus in pci virtio; do modprobe -a $(cat /sys/bus/$bus/devices/*/modalias); done 2>/dev/null
}
load_drivers

tried=
result() { # NAME STATUS
  tried=yes
  case $2 in 0) echo "L2-RESULT $1 ok" ;; *) echo "L2-RESULT $1 failed" ;; esac
}
nics() { ls /sys/class/net | grep -v '^lo$'; }
# Waits up to $1 seconds for a command to succeed.
eventually() {
  local left=$(($1 * 10))
  shift
  until "$@"; do
    left=$((left - 1))
    [ $left -gt 0 ] || return 1
    sleep 0.1
  done
}

dhcp() {
  for nic in $(nics); do
    ip link set "$nic" up
    udhcpc -i "$nic" -n -q -t 20 -T 1 -s /udhcpc >/dev/null 2>&1
    result "dhcp.$nic" $?
  done
}
# With several NICs on identical networks, only the current NIC's route may exist.
alone() {
  ip route flush table main
  ip route add 10.0.2.0/24 dev "$1"
}
ping_gateway() {
  for nic in $(nics); do
    alone "$nic"
    ping -q -c 3 -i 0.2 -I "$nic" 10.0.2.2 >/dev/null
    result "ping.$nic" $?
  done
}
fetch() {
  for nic in $(nics); do
    alone "$nic"
    read -r start _ < /proc/uptime
    wget -q -O /file "$url" && [ "$(md5sum < /file | cut -c1-32)" = "$md5" ]
    result "fetch.$nic" $?
    read -r end _ < /proc/uptime
    echo "L2-FETCHED $nic $(wc -c < /file) bytes, $start to $end s"
  done
}
# The driver has accepted checksums and TSO both ways and mergeable buffers, and has received segments unsplit.
offloads() {
  local nic bits bit bytes packets status
  for nic in $(nics); do
    read -r bits < "/sys/class/net/$nic/device/features"
    read -r bytes < "/sys/class/net/$nic/statistics/rx_bytes"
    read -r packets < "/sys/class/net/$nic/statistics/rx_packets"
    echo "L2-OFFLOADS $nic $bits, $bytes bytes in $packets packets"
    status=0
    for bit in 0 1 7 8 11 12 15; do [ "$(echo "$bits" | cut -c $((bit + 1)))" = 1 ] || status=1; done
    [ $((bytes / packets)) -gt 1514 ] || status=1
    result "offloads.$nic" $status
  done
}
# The driver has a control queue and several pairs, uses one for each CPU, and gets replies by the pair that it sends by.
queues() {
  local nic bits pairs cpu status
  for nic in $(nics); do
    alone "$nic"
    read -r bits < "/sys/class/net/$nic/device/features"
    pairs=$(ls "/sys/class/net/$nic/queues" | grep -c '^rx-')
    status=0
    for bit in 17 22; do [ "$(echo "$bits" | cut -c $((bit + 1)))" = 1 ] || status=1; done
    for cpu in $(seq 0 $((pairs - 1))); do
      taskset $((1 << cpu)) ping -q -c 8 -i 0.1 -I "$nic" 10.0.2.2 >/dev/null || status=1
      echo "L2-QUEUE $nic $cpu of $pairs, interrupts:$(grep "input.$cpu\$" /proc/interrupts)"
      grep "input.$cpu\$" /proc/interrupts | grep -q ' [1-9][0-9]* ' || status=1
    done
    [ "$pairs" -gt 1 ] || status=1
    result "queues.$nic" $status
  done
}
interrupts() { cat /proc/interrupts; }
disk() {
  for disk in $(ls /sys/block | grep -E '^(nvme[0-9]+n|vd)'); do # not the paths of a multipath disk
    head -c 1048576 /dev/urandom > /written
    dd if=/written of="/dev/$disk" bs=64k oflag=direct 2>/dev/null &&
      dd if="/dev/$disk" of=/read bs=64k count=16 iflag=direct 2>/dev/null && cmp -s /written /read
    result "disk.$disk" $?
  done
}
# A line written to a PCI serial port must come back: the mtty sample echoes.
tty() {
  for port in /sys/class/tty/ttyS*; do
    case $(readlink -f "$port/device") in *pci0000*) ;; *) continue ;; esac
    port=${port##*/}
    stty -F "/dev/$port" raw -echo
    exec 7<>"/dev/$port"
    echo "hello $port" >&7
    read -t 30 -r line <&7 # emulation stands still for seconds now and then
    [ "$line" = "hello $port" ]
    result "tty.$port" $?
    exec 7>&-
  done
}
# Otherwise the kernel's console draws its blinking cursor into the picture.
no_console() {
  for console in /sys/class/vtconsole/*; do
    ! grep -q 'frame buffer' "$console/name" || echo 0 > "$console/bind"
  done
}
# Fills the screen with one colour and reads it back.
fb() {
  no_console
  for screen in /sys/class/graphics/fb*; do
    [ -e "$screen/name" ] || continue
    screen=${screen##*/}
    dd if=/dev/zero bs=4096 count=256 2>/dev/null | tr '\000' '\125' > /written
    cat /written > "/dev/$screen" && head -c 1048576 "/dev/$screen" | cmp -s - /written
    result "fb.$screen" $?
  done
}
# Fills the screen with text, for comparison on the host, and prints its size and line length. Written in large
# pieces: Linux 6.1's DRM treats a write of exactly one line as empty, and never shows it.
picture() {
  no_console
  for screen in /sys/class/graphics/fb*; do
    [ -e "$screen/name" ] || continue
    size=$(cat "$screen/virtual_size")
    stride=$(cat "$screen/stride")
    screen=${screen##*/}
    yes 'tsvisor, lab' | head -c $((stride * ${size#*,})) > /written
    cat /written > "/dev/$screen"
    result "picture.$screen" $?
    echo "L2-PICTURE $screen $size $stride"
  done
}
# The kernel's console shows text in all its colours and no cursor: its pixels' checksum is for comparison on the host.
console() {
  has_console() { grep -q 'frame buffer' /sys/class/vtconsole/*/name; }
  echo > /dev/tty1 # which takes the screen with the first output, some time after it
  eventually 30 has_console
  {
    printf '\033[?25l\033[2J\033[H'
    for line in $(seq 32); do
      printf '\033[3%d;4%dmtsvisor, lab: line %d\033[0m\n' $((line % 8)) $((line / 8 % 4)) "$line"
    done
  } > /dev/tty1
  for screen in /sys/class/graphics/fb*; do
    [ -e "$screen/name" ] || continue
    size=$(cat "$screen/virtual_size")
    stride=$(cat "$screen/stride")
    screen=${screen##*/}
    head -c $((stride * ${size#*,})) "/dev/$screen" > /read
    result "console.$screen" $?
    echo "L2-CONSOLE $screen $size $stride $(md5sum < /read | cut -c1-32)"
  done
}
# Two screens of a card get a mode, a picture and a cursor, for comparison on the host, which ends L2.
screens() { drm 2; }
# What the host types arrives.
input() {
  modprobe evdev
  # udev is not there to wait for.
  has_devices() { grep -q 'Name="tsvisor' /proc/bus/input/devices && [ -e /dev/input/event0 ]; }
  eventually 30 has_devices
  events "$events"
  result input.events $?
}
# The host unplugs the NIC while L2 runs.
unplug() {
  echo L2-WAITS
  no_nic() { [ -z "$(nics)" ]; }
  eventually 60 no_nic
  result unplug.nic $?
}
# NICs come and go: each gets an address, and then fetches until it is gone.
hotplug() {
  local nic index now known=
  echo L2-WAITS
  while sleep 0.1; do
    # A virtio device is there once the driver of its PCI function is, which may be long after that was loaded.
    now=$(echo /sys/bus/pci/devices/* /sys/bus/virtio/devices/*)
    [ "$now" = "$known" ] || load_drivers
    known=$now
    for nic in $(nics); do
      index=$(cat "/sys/class/net/$nic/ifindex" 2>/dev/null) || continue # it is gone by now
      [ ! -e "/used.$index" ] || continue
      : > "/used.$index"
      use_until_gone "$nic" "$index" &
    done
  done
}
# With its name and number: the next NIC may have the same name.
use_until_gone() {
  local nic=$1 index=$2 bdf fetching
  is_here() { [ "$(cat "/sys/class/net/$nic/ifindex" 2>/dev/null)" = "$index" ]; }
  bdf=$(readlink -f "/sys/class/net/$nic/device")
  case $bdf in */virtio*) bdf=${bdf%/*} ;; esac
  bdf=${bdf##*/}
  is_here || return
  ip link set "$nic" up
  if udhcpc -i "$nic" -n -q -t 20 -T 1 -s /udhcpc >/dev/null 2>&1; then
    echo "L2-CAME $bdf"
  else
    grep "$nic" /proc/interrupts
    ip -s link show "$nic"
    grep . "/sys/class/net/$nic/statistics"/*
    dmesg | tail -n 8
    echo "L2-MUTE $bdf"
  fi
  while is_here; do
    alone "$nic"
    wget -q -O /dev/null "$url" 2>/dev/null &
    fetching=$!
    while is_here && kill -0 $fetching 2>/dev/null; do sleep 0.1; done
    kill $fetching 2>/dev/null
    sleep 0.1
  done
  echo "L2-GONE $bdf"
}
# The host does something meanwhile.
pause() {
  echo L2-PAUSED
  sleep 5
}
hold() {
  echo L2-WAITS
  while sleep 60; do :; done
}
# A shell at the console; L2 ends with it.
shell() { setsid cttyhack sh; }
# Reads each device's expansion ROM; lab tests compare checksum and exits.
rom() {
  for device in /sys/bus/pci/devices/*; do
    [ -e "$device/rom" ] || continue
    echo 1 > "$device/rom"
    cat "$device/rom" > /rom
    result "rom.${device##*/}" $?
    echo 0 > "$device/rom"
    echo "L2-ROM ${device##*/} $(wc -c < /rom) bytes, $(md5sum < /rom | cut -c1-32)"
  done
}
find_card() {
  card=
  for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/vendor" "$device/device" | tr -d '\n')" = 0x12340x7463 ] || continue
    card=$device
  done
  [ -n "$card" ]
}
# The test card (docs/test-card.md), driven by hand through /dev/mem: its registers, doorbells and small BAR, its ROM, a
# transfer between reserved memory (memmap=64K$0xf000000), a reset by Linux, and its removal by itself.
card() {
  find_card || return
  printf '\007\000' | dd of="$card/config" bs=1 seek=4 conv=notrunc 2>/dev/null # memory, ports, bus mastering
  bar() { echo $(($(sed -n "$(($1 + 1))p" "$card/resource" | cut -d' ' -f1))); }
  reg() { devmem $(($(bar 0) + $1)) 32 ${2:-}; }
  [ "$(reg 0)" = 0x64726163 ]
  result card.id $?
  devmem $(($(bar 4) + 252)) 32 0x12345678
  [ "$(devmem $(($(bar 4) + 252)) 32)" = 0x12345678 ]
  result card.small $?
  devmem $(($(bar 2) + 4096)) 32 0x87654321
  [ "$(devmem $(($(bar 2) + 4096)) 32)" = 0x87654321 ]
  result card.mapped $?
  echo 1 > "$card/rom"
  [ "$(od -An -tx1 -N2 "$card/rom" | tr -d ' ')" = 55aa ] && [ "$(wc -c < "$card/rom")" = 4096 ]
  result card.rom $?
  reg 0x400 1; reg 0x408 1
  eventually 10 [ "$(($(reg 0x14)))" -ge 1 ]
  result card.doorbells $?
  for at in 0 4 8 12; do devmem $((0xf000000 + at)) 32 $((0x01020304 + at)); devmem $((0xf001000 + at)) 32 0; done
  reg 0x20 0xf000000; reg 0x24 0; reg 0x28 0xf001000; reg 0x2c 0; reg 0x30 16; reg 0x38 1
  transferred() { [ "$(reg 0x3c)" = 0x00000002 ]; }
  eventually 10 transferred && [ "$(devmem 0xf00100c 32)" = 0x01020310 ]
  result card.dma $?
  reg 0x28 0; reg 0x2c 0x4000; reg 0x38 1
  failed() { [ "$(reg 0x3c)" = 0x00000003 ]; }
  eventually 10 failed
  result card.outside $?
  reg 4 5
  echo 1 > "$card/reset" && [ "$(reg 4)" = 0x00000000 ] && [ "$(reg 0)" = 0x64726163 ]
  result card.reset $?
  reg 0x1c 1
  reg 4 5
  echo 1 > "$card/reset" 2>/dev/null
  [ "$(reg 4)" = 0x00000005 ]
  result card.failing $?
  reg 0x1c 10
  [ "$(od -An -tx4 -N4 "$card/config" | tr -d ' ')" = ffffffff ] && [ "$(reg 0)" = 0xFFFFFFFF ]
  result card.gone $?
}
# The same card and its driver, which says what of it works.
driven() {
  find_card || return
  modprobe testcard
  dmesg | sed -n 's/.*testcard [0-9a-f:.]*: /L2-DRIVER /p'
  dmesg | sed -n 's/.*testcard [0-9a-f:.]*: \([a-z]*\) \(ok\|failed\)$/L2-RESULT driven.\1 \2/p' > /driven
  cat /driven
  [ ! -s /driven ] || tried=yes
}
# A test card with three virtual functions: Linux turns two of them on, and drives both by hand as above; one is reset, and both
# are turned off. pci-pf-stub is a driver that does nothing but enable VFs.
vfs() {
  find_card || return
  modprobe pci-pf-stub
  echo pci-pf-stub > "$card/driver_override"
  echo "${card##*/}" > /sys/bus/pci/drivers_probe
  [ "$(cat "$card/sriov_totalvfs")" = 3 ]
  result vfs.total $?
  echo 2 > "$card/sriov_numvfs" && [ -e "$card/virtfn1" ] && [ ! -e "$card/virtfn2" ]
  result vfs.enabled $?
  grep -H . "$card"/virtfn*/resource | grep -v '0x0000000000000000 0x0000000000000000' | sed 's/.*virtfn/L2-RESOURCE VF /'
  [ "$(cat "$card"/virtfn[01]/vendor "$card"/virtfn[01]/device | tr -d '\n')" = 0x12340x12340x74760x7476 ]
  result vfs.ids $?
  local base0 base1 base2
  read -r base0 _ < "$card/virtfn0/resource"
  read -r base1 _ < "$card/virtfn1/resource"
  vf_reg() { devmem $((base$1 + $2)) 32 ${3:-}; }
  vf_reg 0 4 0x11; vf_reg 1 4 0x22
  [ "$(vf_reg 0 0) $(vf_reg 1 0) $(vf_reg 0 4) $(vf_reg 1 4)" = '0x64726163 0x64726163 0x00000011 0x00000022' ]
  result vfs.registers $?
  printf '\004\000' | dd of="$card/virtfn1/config" bs=1 seek=4 conv=notrunc 2>/dev/null # bus mastering
  for at in 0 4 8 12; do devmem $((0xf000000 + at)) 32 $((0x01020304 + at)); devmem $((0xf001000 + at)) 32 0; done
  vf_reg 1 0x20 0xf000000; vf_reg 1 0x24 0; vf_reg 1 0x28 0xf001000; vf_reg 1 0x2c 0; vf_reg 1 0x30 16; vf_reg 1 0x38 1
  vf_transferred() { [ "$(vf_reg 1 0x3c)" = 0x00000002 ]; }
  eventually 10 vf_transferred && [ "$(devmem 0xf00100c 32)" = 0x01020310 ]
  result vfs.dma $?
  echo 1 > "$card/virtfn0/reset" && [ "$(vf_reg 0 4) $(vf_reg 1 4)" = '0x00000000 0x00000022' ]
  result vfs.reset $?
  echo 0 > "$card/sriov_numvfs" && [ ! -e "$card/virtfn0" ] && [ "$(vf_reg 0 0)" = 0xFFFFFFFF ]
  result vfs.disabled $?
  echo 3 > "$card/sriov_numvfs" && read -r base2 _ < "$card/virtfn2/resource" && [ "$(vf_reg 2 0)" = 0x64726163 ]
  result vfs.again $?
}
# Fetches this kernel and its initramfs over the NIC, and boots them with the checks of lab.then=.
kexec_again() {
  echo "L2-KEXEC"
  wget -q -O /vmlinuz "${url%/*}/vmlinuz" && wget -q -O /initrd "${url%/*}/initrd" &&
    kexec /vmlinuz /initrd "$(sed "s/lab.checks=[^ ]*/lab.checks=$then/" /proc/cmdline)"
  echo "L2-KEXEC failed: $?"
  result kexec 1
}
crash() { echo c > /proc/sysrq-trigger; }
restart() { reboot -f; }

. /upset
. /measure
for check in $(echo "$checks" | tr , ' '); do
  tried=
  case $check in
    dhcp | fetch | offloads | queues | disk | tty | fb | picture | console | screens | input | rom | card | driven | vfs | unplug | upset | traffic | blocks) $check; [ -n "$tried" ] || result "$check" 1 ;;
    ping) ping_gateway; [ -n "$tried" ] || result ping 1 ;;
    kexec) kexec_again ;;
    interrupts | hotplug | pause | hold | shell | crash | restart) $check ;;
    *) result "$check" 1 ;;
  esac
done
echo "L2-END $(cut -d' ' -f1 /proc/uptime)"
poweroff -f
