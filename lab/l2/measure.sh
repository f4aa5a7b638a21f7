# Checks that measure: `meter` prints a line for each value, several times, which meter.ts parses. The peer is `meter serve` in L1.
traffic() {
  ip address add 10.1.0.2/24 dev eth0
  ip link set eth0 up
  eventually 20 ping -q -c 1 -W 1 10.1.0.1 > /dev/null
  result traffic.reaches $?
  for times in 1 2 3; do
    meter down 67108864 && meter up 67108864 && meter echo 1 1000 && meter echo 32 1000
    result traffic.eth0 $?
  done
}
blocks() {
  for times in 1 2 3; do
    for what in write read; do
      meter $what /dev/vda 1048576 67108864 1 0 &&
        meter $what /dev/vda 4096 4194304 1 67108864 && meter $what /dev/vda 4096 8388608 8 67108864
      result blocks.$what $?
    done
  done
}
