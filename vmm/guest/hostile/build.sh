#!/usr/bin/env bash
# Builds hostile.elf into OUTDIR (default: next to this script). The same compiler produces the same bytes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:-$here}"
out=$(cd "${1:-$here}" && pwd)
cd "$here" # source names in the symbol table are then bare
export LC_ALL=C
"${CC:-gcc}" -std=gnu11 -Wall -Wextra -Werror \
  -ffreestanding -nostdlib -static -O2 -m64 -march=x86-64 -mgeneral-regs-only -mno-red-zone -fno-pic -no-pie \
  -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing \
  -ffile-prefix-map="$here"=. -Wa,-mrelax-relocations=no \
  -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 -Wl,-T,../guest.ld \
  -o "$out/hostile.elf" hostile.c
echo "$out/hostile.elf: $(stat -c %s "$out/hostile.elf") bytes"
