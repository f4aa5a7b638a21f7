/* The four functions gcc may call even when freestanding, and no others. */
#include "cpu.h"

void *memcpy(void *to, const void *from, u64 bytes) {
  copy(to, from, bytes);
  return to;
}

void *memset(void *to, int value, u64 bytes) {
  void *at = to;
  u64 words = bytes / 8, rest = bytes % 8, filled = (u8)value * 0x0101010101010101ul;
  asm volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(filled) : "memory");
  asm volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(filled) : "memory");
  return to;
}

void *memmove(void *to, const void *from, u64 bytes) {
  if ((u64)to - (u64)from >= bytes) return memcpy(to, from, bytes);
  u8 *a = (u8 *)to + bytes;
  const u8 *b = (const u8 *)from + bytes;
  while (a != to) {
    *--a = *--b;
    barrier();
  }
  return to;
}

int memcmp(const void *a, const void *b, u64 bytes) {
  const u8 *x = a, *y = b;
  for (; bytes; bytes--, x++, y++)
    if (*x != *y) return *x - *y;
  return 0;
}
