# Commands that programs and people use in L1. The agent puts each function into PATH as a command.
set -euo pipefail

# vfio-load [noiommu]: loads the kernel's VFIO with both interfaces; noiommu allows devices without an IOMMU.
vfio-load() {
  modprobe vfio ${1:+enable_unsafe_noiommu_mode=1}
  modprobe -a vfio_iommu_type1 vfio-pci mdev
}

# vfio-bind BDF...: unbinds PCI functions from their drivers and binds them to vfio-pci.
vfio-bind() {
  local bdf device
  for bdf; do
    device=/sys/bus/pci/devices/$bdf
    echo vfio-pci > "$device/driver_override"
    [ ! -e "$device/driver" ] || echo "$bdf" > "$device/driver/unbind"
    echo "$bdf" > /sys/bus/pci/drivers_probe
    [ "$(basename "$(readlink "$device/driver")")" = vfio-pci ] || { echo "$bdf: vfio-pci did not take it" >&2; return 1; }
  done
}

# vfio-unbind BDF...: undoes vfio-bind; the function's own driver binds again if it is loaded.
vfio-unbind() {
  local bdf device
  for bdf; do
    device=/sys/bus/pci/devices/$bdf
    echo > "$device/driver_override"
    [ ! -e "$device/driver" ] || echo "$bdf" > "$device/driver/unbind"
    echo "$bdf" > /sys/bus/pci/drivers_probe
  done
}

# vf-create BDF COUNT: creates virtual functions of a NIC, without a driver, and prints their addresses. Each keeps its MAC:
# of random ones, a new one at each start of a driver, QEMU's DHCP server has no addresses left after 16.
vf-create() {
  local device=/sys/bus/pci/devices/$1 virtual nic number
  modprobe "$(modprobe -R "$(cat "$device/modalias")")"
  nic=$(ls "$device/net")
  ip link set "$nic" up
  echo 0 > "$device/sriov_drivers_autoprobe"
  echo "$2" > "$device/sriov_numvfs"
  for ((number = 0; number < $2; number++)); do ip link set "$nic" vf $number mac 52:54:00:12:40:0$number; done
  for virtual in "$device"/virtfn*; do basename "$(readlink "$virtual")"; done
}

# net-up BDF: configures a network for L1 itself, through an unused emulated NIC; net-down BDF removes it.
net-up() {
  local device=/sys/bus/pci/devices/$1 nic
  modprobe "$(cat "$device/modalias")"
  [ -e "$device/driver" ] || echo "$1" > /sys/bus/pci/drivers_probe
  nic=$(ls "$device/net")
  ip address add 10.0.2.15/24 dev "$nic"
  ip link set "$nic" up
  ip route add default via 10.0.2.2
  echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range
}
net-down() { echo "$1" > "/sys/bus/pci/devices/$1/driver/unbind"; }

# tap-up BDF: makes tap0, bridged to the network of an unused emulated NIC; tap-down BDF removes it.
tap-up() {
  local device=/sys/bus/pci/devices/$1 port
  modprobe -a tun bridge "$(cat "$device/modalias")"
  [ -e "$device/driver" ] || echo "$1" > /sys/bus/pci/drivers_probe
  ip link add br0 type bridge forward_delay 0
  ip tuntap add tap0 mode tap
  for port in "$(ls "$device/net")" tap0; do ip link set "$port" master br0 up; done
  ip link set br0 up
}
tap-down() {
  ip link delete tap0
  ip link delete br0
  net-down "$1"
}

# tap-alone: makes tap0, whose other end is L1 itself, 10.1.0.1, with a peer for `meter`; tap-gone removes them.
tap-alone() {
  modprobe -a tun vhost_net
  ip tuntap add tap0 mode tap
  ip address add 10.1.0.1/24 dev tap0
  ip link set tap0 up
  echo 'hist:keys=reason' > /sys/kernel/tracing/events/kvm/kvm_userspace_exit/trigger
  setsid /lab/meter serve > /dev/null 2>&1 < /dev/null &
  echo $! > /run/meter
}
tap-gone() {
  kill -- -"$(cat /run/meter)"
  ip link delete tap0
  echo '!hist:keys=reason' > /sys/kernel/tracing/events/kvm/kvm_userspace_exit/trigger
}

# mdev-create TYPE [UUID]: creates a mediated device of a sample driver (mtty-1, mdpy-xga, mbochs-small ...); prints
# its UUID.
mdev-create() {
  local uuid=${2:-$(cat /proc/sys/kernel/random/uuid)}
  modprobe "${1%%-*}"
  echo "$uuid" > /sys/class/mdev_bus/*/mdev_supported_types/*"$1"/create
  echo "$uuid"
}

# qmp COMMAND [ARGUMENTS]: runs a command of QMP in the monitor of the QEMU that runs L1; prints the answer's line.
qmp() {
  local port line arguments=${2-}
  port=$(grep -lx hmp /sys/class/virtio-ports/*/name)
  port=${port%/name}
  exec 9<>"/dev/${port##*/}"
  # Only the first one of a boot needs to negotiate: later ones get an error, which is skipped like any line without the
  # number of the request.
  echo '{"execute":"qmp_capabilities"}' >&9
  printf '{"execute":"%s","id":%d,"arguments":%s}\n' "$1" $$ "${arguments:-"{}"}" >&9
  while IFS= read -r line <&9; do
    case $line in
      *'"id": '$$*'"error"'* | *'"error"'*'"id": '$$*) echo "$line" >&2; return 1 ;;
      *'"id": '$$*) break ;;
    esac
  done
  echo "$line"
}

# hmp COMMAND...: runs a command of its human monitor (device_del ID ...); prints its output.
hmp() {
  local line
  line=$(qmp human-monitor-command "{\"command-line\":\"$*\"}")
  line=${line#*'"return": "'}
  line=${line%'", "id": '$$*}
  line=$(printf '%b' "${line//'\"'/'"'}" | tr -d '\r')
  [ -z "$line" ] || echo "$line"
}

# served NAME fault FAULTS: gives a device of --serve faults (docs/test-card.md); served NAME stop|start: ends its server, and
# starts it again; served NAME restart: takes the device out of L1, serves it anew, and plugs it in again; served NAME said: what
# its server has told.
served() {
  local number=$$-$RANDOM status
  if [ "$2" = restart ]; then
    [ ! -e "/sys/bus/pci/devices/$(served-address "$1")" ] || hmp device_del "$1"
    for ((i = 0; i < 300; i++)); do hmp info qtree | grep -q "id \"$1\"" || break; sleep 0.1; done
    served "$1" stop || true
    served "$1" start
    qmp device_add "$(cat "/run/lab/served/$1.json")" > /dev/null
    for ((i = 0; i < 300; i++)); do [ ! -e "/sys/bus/pci/devices/$(served-address "$1")" ] || return 0; sleep 0.1; done
    echo "$1 has not come back" >&2
    return 1
  fi
  echo "$*" > "/run/lab/served/$number.part"
  mv "/run/lab/served/$number.part" "/run/lab/served/$number.ask"
  until [ -e "/run/lab/served/$number.answer" ]; do sleep 0.02; done
  { read -r status; cat; } < "/run/lab/served/$number.answer" > "/run/served-$number"
  rm "/run/lab/served/$number.answer"
  if [ "$status" = 0 ]; then cat "/run/served-$number"; else cat "/run/served-$number" >&2; fi
  rm "/run/served-$number"
  return "$status"
}
served-address() {
  local variable=LAB_${1^^}
  variable=${variable//-/_}
  echo "${!variable}"
}

# aer BDF STATUS: injects an uncorrectable PCI Express error (hexadecimal AER status) in a function below a root port.
# Uses the kernel's injector: the emulated NICs do not forward errors injected by QEMU's monitor.
aer() {
  local word bytes='' domain bus slot fn
  modprobe aer_inject
  IFS=:. read -r domain bus slot fn <<< "$1"
  bytes=$(printf '\\x%02x\\x%02x\\x%02x\\x00' $((16#$bus)) $((16#$slot)) "$fn") # struct aer_error_inj, packed
  for word in $((16#$2)) 0 0 1 2 3 $((16#$domain)); do
    bytes+=$(printf '\\x%02x' $((word & 255)) $((word >> 8 & 255)) $((word >> 16 & 255)) $((word >> 24 & 255)))
  done
  printf '%b' "$bytes" > /run/aer && cat /run/aer > /dev/aer_inject
}

# l2-qemu legacy|iommufd DEVICE... [-- KERNEL-PARAMETER...]: boots the L2 guest under Debian's QEMU, with PCI
# functions or mdevs passed through, as the reference for tsvisor. L2_CPUS and L2_MEMORY (MiB) size it; L2_MACHINE is
# q35 or another machine type with PCI; L2_MORE has more arguments.
l2-qemu() {
  local interface=$1 devices=() parameters='' suffix=''
  shift
  [ "$interface" = legacy ] || { devices=(-object iommufd,id=io); suffix=,iommufd=io; }
  for word; do
    shift
    case $word in
      --) parameters=$*; break ;;
      *-*) devices+=(-device "vfio-pci,sysfsdev=/sys/bus/mdev/devices/$word$suffix") ;;
      *) devices+=(-device "vfio-pci,host=$word$suffix") ;;
    esac
  done
  exec qemu-system-x86_64 -accel kvm -machine "${L2_MACHINE:-q35}" -cpu host -smp "${L2_CPUS:-1}" -m "${L2_MEMORY:-256}" \
    -nodefaults -display none -no-reboot -serial stdio \
    -kernel "${L2_KERNEL:-/lab/vmlinuz}" -initrd "${L2_INITRD:-/lab/l2.initrd}" -append "$parameters" "${devices[@]}" ${L2_MORE:-}
}

# attach-times COMMAND...: runs it, then prints, in seconds, what the kernel saw: DMA maps, and until the first vCPU ran, the
# opening of the group, and calls on the device.
attach-times() {
  local tracing=/sys/kernel/tracing status=0 probe
  echo > $tracing/kprobe_events 2> /dev/null || { echo > $tracing/trace; echo 0 > $tracing/events/kprobes/enable; echo > $tracing/kprobe_events; }
  cat > $tracing/kprobe_events <<- 'EOF'
	p:kprobes/lab_group vfio_group_fops_open
	p:kprobes/lab_call vfio_device_fops_unl_ioctl
	r:kprobes/lab_called vfio_device_fops_unl_ioctl
	p:kprobes/lab_map vfio_iommu_type1_ioctl request=%si:x32
	r:kprobes/lab_mapped vfio_iommu_type1_ioctl
	p:kprobes/lab_run kvm_arch_vcpu_ioctl_run
	EOF
  for probe in call called run; do
    echo disable_event:kprobes:lab_$probe > $tracing/events/kprobes/lab_run/trigger
  done
  echo > $tracing/trace
  echo 1 > $tracing/events/kprobes/enable
  echo 1 > $tracing/tracing_on
  ("$@") || status=$?
  grep -o '[0-9.]*: lab_.*' $tracing/trace | sed 's/^/LAB-TRACE /'
  echo 0 > $tracing/events/kprobes/enable
  for probe in call called run; do
    echo "!disable_event:kprobes:lab_$probe" > $tracing/events/kprobes/lab_run/trigger
  done
  echo > $tracing/kprobe_events
  return $status
}

# boot-times COMMAND...: runs a VMM, and prints when, in seconds, it was started, opened its first VFIO group, ran its first
# vCPU, and printed the line of L2's first program; and its peak memory at L2's last line. The kernel stops watching the vCPU
# once it has run: a boot under firmware has tens of thousands of exits.
boot-times() {
  local tracing=/sys/kernel/tracing status=0 line vmm reader
  cat > $tracing/kprobe_events <<- 'EOF'
	p:kprobes/lab_group vfio_group_fops_open
	p:kprobes/lab_run kvm_arch_vcpu_ioctl_run
	EOF
  echo > $tracing/trace
  echo 1 > $tracing/events/kprobes/enable
  echo 1 > $tracing/tracing_on
  while read -r line; do
    [[ $line =~ ([0-9.]+):\ .*(lab_[a-z]+) ]] || continue
    [ "${BASH_REMATCH[2]}" != lab_run ] || echo 0 > $tracing/events/kprobes/lab_run/enable
    echo "LAB-BOOT ${BASH_REMATCH[2]#lab_} ${BASH_REMATCH[1]}"
  done < $tracing/trace_pipe > /run/boot-times &
  reader=$!
  exec 5< <(echo lab_start > $tracing/trace_marker; exec "$@" 2>&1)
  vmm=$!
  while read -r line <&5; do
    echo "$line"
    case $line in
      *L2-USERSPACE*) echo lab_userspace > $tracing/trace_marker ;;
      *L2-END*) grep VmHWM /proc/$vmm/status ;;
    esac
  done
  wait $vmm || status=$?
  kill $reader
  cat /run/boot-times
  echo 0 > $tracing/events/kprobes/enable
  echo > $tracing/kprobe_events
  return $status
}

# exit-causes COMMAND...: runs it, then prints each access of a vCPU to a port or to memory beyond RAM that the kernel did not
# do itself: how often, which, and at which port or address. The numbers of the reasons are SVM's. For one vCPU.
exit-causes() {
  local tracing=/sys/kernel/tracing status=0
  echo 8192 > $tracing/buffer_size_kb
  echo 'exit_reason == 0x7b || (exit_reason == 0x400 && info2 >= 0xa0000)' > $tracing/events/kvm/kvm_exit/filter
  echo > $tracing/trace
  echo 1 > $tracing/events/kvm/kvm_exit/enable
  echo 1 > $tracing/events/kvm/kvm_userspace_exit/enable
  echo 1 > $tracing/tracing_on
  ("$@") || status=$?
  echo 0 > $tracing/events/kvm/enable
  grep -o 'kvm_exit: .*\|kvm_userspace_exit: .*' $tracing/trace | awk '
    $1 == "kvm_exit:" { for (i = 1; i < NF; i++) { if ($i == "info1") one = $(i + 1); if ($i == "info2") two = $(i + 1) } }
    $1 == "kvm_userspace_exit:" && $3 == "KVM_EXIT_IO" { count["LAB-EXIT port " one]++ }
    $1 == "kvm_userspace_exit:" && $3 == "KVM_EXIT_MMIO" { count["LAB-EXIT memory " two]++ }
    $1 == "kvm_userspace_exit:" && $3 !~ /_(IO|MMIO)$/ { count["LAB-EXIT " $3 " 0"]++ }
    END { for (what in count) print what, count[what] }'
  sed -n 's/^overrun: \([1-9].*\)/LAB-EXIT lost \1 0/p' $tracing/per_cpu/cpu*/stats
  echo 0 > $tracing/events/kvm/kvm_exit/filter
  echo > $tracing/trace
  return $status
}

"$@"
