#!/bin/sh
# Called by udhcpc with the lease in its environment.
[ "$1" = bound ] && ip addr replace "$ip/$mask" dev "$interface"
exit 0
