#include "inet.h"

static u64 add(u64 a, u64 b) {
  u64 sum = a + b;
  return sum + (sum < a);
}

/* 32 bytes per iteration, 7 instructions: LEA and DEC do not change the carry flag. */
static u64 sum_blocks(const u8 *from, u64 blocks, u64 sum) {
  asm volatile(
      "clc\n"
      "1:\tadcq (%0), %2\n\tadcq 8(%0), %2\n\tadcq 16(%0), %2\n\tadcq 24(%0), %2\n"
      "\tleaq 32(%0), %0\n\tdecq %1\n\tjnz 1b\n\tadcq $0, %2"
      : "+r"(from), "+r"(blocks), "+r"(sum)::"memory", "cc");
  return sum;
}

u64 sum_bytes(const void *data, u64 bytes, u64 sum) {
  const u8 *from = data;
  if (bytes >= 32) {
    sum = sum_blocks(from, bytes / 32, sum);
    from += bytes & ~31ul;
    bytes &= 31;
  }
  for (; bytes >= 8; bytes -= 8, from += 8) sum = add(sum, *(const u64 *)from);
  if (bytes) {
    u64 last = 0;
    copy(&last, from, bytes);
    sum = add(sum, last);
  }
  return sum;
}

u16 sum_fold(u64 sum) {
  /* Adding a number to itself with the halves swapped puts their sum, carry included, in the upper half. */
  u32 word = (u32)((sum + (sum >> 32 | sum << 32)) >> 32);
  return (u16)((word + (word >> 16 | word << 16)) >> 16);
}

u64 sum_ipv4(const void *header) {
  const u32 *word = header;
  return (u64)word[0] + word[1] + word[2] + word[3] + word[4];
}

u64 sum_pseudo(u32 from, u32 to, u8 protocol, u32 bytes) {
  return (u64)from + to + be16((u16)bytes) + ((u32)protocol << 8);
}
