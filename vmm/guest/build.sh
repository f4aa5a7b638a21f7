#!/usr/bin/env bash
# Builds guest.elf and hostile.elf into OUTDIR (default: each next to its sources). The same compiler produces the same bytes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LC_ALL=C

# image ELF FOLDER SOURCE...
image() {
  local folder=$2
  local elf=${outdir:-$folder}/$1
  shift 2
  cd "$folder" # source names in the symbol table are then bare
  "${CC:-gcc}" -std=gnu11 -Wall -Wextra -Werror \
    -ffreestanding -nostdlib -static -O2 -m64 -march=x86-64 -mgeneral-regs-only -mno-red-zone -fno-pic -no-pie \
    -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing \
    -ffile-prefix-map="$folder"=. -Wa,-mrelax-relocations=no \
    -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 -Wl,-T,"$here/guest.ld" \
    -o "$elf" "$@"
  echo "$elf: $(stat -c %s "$elf") bytes"
}

outdir=${1:+$(mkdir -p "$1" && cd "$1" && pwd)}
image guest.elf "$here" \
  start.S main.c apic.c bars.c checksum.c clock.c dhcp.c display.c doorbell.c gtt.c hotplug.c inet.c memory.c nic.c options.c pci.c \
  picture.c ping.c print.c samples.c tcp-echo.c trap.c udp-echo.c virtio.c
image hostile.elf "$here/hostile" hostile.c
