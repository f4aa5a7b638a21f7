# What a guest may do to a device, sourced by init.sh. After each step, the device must work again: each NIC gets an
# address anew.
upset() {
  local nic bdf step
  for nic in $(nics); do
    bdf=$(readlink -f "/sys/class/net/$nic/device")
    case $bdf in */virtio*) bdf=${bdf%/*} ;; esac
    bdf=${bdf##*/}
    device=/sys/bus/pci/devices/$bdf
    for step in rebind function_reset d3hot moved_bars remove; do
      $step "$bdf" && eventually 20 [ -e "$device/driver" ] && eventually 20 has_lease "$device"
      result "$step.$nic" $?
    done
  done
}

has_lease() {
  local nic
  for nic in "$1"/net/* "$1"/virtio*/net/*; do
    [ -e "$nic" ] || continue
    nic=${nic##*/}
    ip link set "$nic" up && udhcpc -i "$nic" -n -q -t 20 -T 1 -s /udhcpc > /dev/null 2>&1
    return
  done
  return 1
}

# Config space, byte by byte: OFFSET, and the bytes to write.
config_read() { hexdump -v -s "$1" -n 1 -e '1/1 "%u"' "$device/config"; }
config_write() {
  local offset=$1 byte
  shift
  for byte; do printf "\\x$(printf %02x "$byte")"; done > /bytes
  dd if=/bytes of="$device/config" bs=1 seek="$offset" conv=notrunc 2> /dev/null
}
# Offset of a capability, by its number.
capability() {
  local at
  at=$(config_read 52)
  while [ "$at" -ne 0 ]; do
    [ "$(config_read "$at")" -ne "$1" ] || { echo "$at"; return 0; }
    at=$(config_read $((at + 1)))
  done
  return 1
}
save_header() { dd if="$device/config" of=/header bs=64 count=1 2> /dev/null; }
restore_header() { dd if=/header of="$device/config" bs=64 count=1 conv=notrunc 2> /dev/null; }

unbind() { driver=$(readlink -f "$device/driver") && echo "$1" > "$driver/unbind"; }
bind() { echo "$1" > "$driver/bind"; }

rebind() {
  local times
  for times in 1 2 3; do unbind "$1" && bind "$1" || return 1; done
}
# By each method that Linux finds: FLR, power management, the bus.
function_reset() {
  local method
  unbind "$1"
  for method in $(cat "$device/reset_method" 2> /dev/null); do
    echo "L2-RESET $1 $method"
    echo "$method" > "$device/reset_method" && echo 1 > "$device/reset" || return 1
  done
  bind "$1"
}
d3hot() {
  local pm state
  unbind "$1"
  if pm=$(capability 1); then
    save_header
    config_write $((pm + 4)) 3
    sleep 0.1
    state=$(($(config_read $((pm + 4))) & 3))
    config_write $((pm + 4)) 0
    sleep 0.1
    restore_header
    echo "L2-D3HOT $1 state $state"
    [ "$state" = 3 ] || return 1
  fi
  bind "$1"
}
# The first BAR lies on memory, on the local APIC, and at the end of the address space; then again where it was.
moved_bars() {
  local address command
  unbind "$1"
  command=$(config_read 4)
  save_header
  for address in "0 0 64 0" "0 0 0 0" "0 0 224 254" "0 0 0 255"; do
    config_write 4 $((command & ~2))
    config_write 16 $address
    config_write 4 $((command | 2))
    config_write 16 $address
  done
  config_write 4 $((command & ~2))
  restore_header
  bind "$1"
}
remove() {
  echo 1 > "$device/remove"
  [ ! -e "$device" ] || return 1
  echo 1 > /sys/bus/pci/rescan
  eventually 20 [ -e "$device" ]
}
