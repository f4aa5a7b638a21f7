#ifndef GUEST_CPU_H
#define GUEST_CPU_H
/* Types, port I/O, MMIO, unaligned memory: everything that is a single instruction. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef int s32;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
#define GIB4 0x100000000ul

static inline void outb(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void outw(u16 port, u16 value) { asm volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { asm volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static inline u8 inb(u16 port) {
  u8 value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline u32 inl(u16 port) {
  u32 value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline void outs(u16 port, const char *from, u64 count) {
  asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

static inline u8 read8(u64 address) { return *(volatile u8 *)address; }
static inline u16 read16(u64 address) { return *(volatile u16 *)address; }
static inline u32 read32(u64 address) { return *(volatile u32 *)address; }
static inline void write8(u64 address, u8 value) { *(volatile u8 *)address = value; }
static inline void write16(u64 address, u16 value) { *(volatile u16 *)address = value; }
static inline void write32(u64 address, u32 value) { *(volatile u32 *)address = value; }

static inline void barrier(void) { asm volatile("" ::: "memory"); }
static inline void fence(void) { asm volatile("mfence" ::: "memory"); }
static inline void sti(void) { asm volatile("sti" ::: "memory"); }
static inline void cli(void) { asm volatile("cli" ::: "memory"); }
static inline void pause(void) { asm volatile("pause" ::: "memory"); }
/* Call after cli and a check. STI delays interrupts by one instruction, so none can arrive between the check and HLT.
 */
static inline void sleep(void) { asm volatile("sti; hlt" ::: "memory"); }
static inline _Noreturn void halt_for_ever(void) {
  for (;;) asm volatile("cli; hlt" ::: "memory");
}

static inline u64 rdtsc(void) {
  u32 low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
  return (u64)high << 32 | low;
}
static inline u64 rdmsr(u32 msr) {
  u32 low, high;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return (u64)high << 32 | low;
}
static inline void wrmsr(u32 msr, u64 value) {
  asm volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* String instructions, 8 bytes per iteration: the cheapest loop if every instruction is emulated. */
static inline void copy(void *to, const void *from, u64 bytes) {
  u64 words = bytes / 8, rest = bytes % 8;
  asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words)::"memory");
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(rest)::"memory");
}
static inline void clear(void *to, u64 bytes) {
  u64 words = bytes / 8, rest = bytes % 8;
  asm volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(0ul) : "memory");
  asm volatile("rep stosb" : "+D"(to), "+c"(rest) : "a"(0ul) : "memory");
}
static inline bool equal(const void *a, const void *b, u64 bytes) {
  u64 words = bytes / 8, rest = bytes % 8;
  bool same;
  asm volatile(
      "cmp %%rcx, %%rcx\n\trepe cmpsq\n\tjne 1f\n\tmov %4, %%rcx\n\tcmp %%rcx, %%rcx\n\trepe cmpsb\n1:"
      : "+S"(a), "+D"(b), "+c"(words), "=@cce"(same)
      : "r"(rest)
      : "memory");
  return same;
}

static inline u16 be16(u16 value) { return (u16)(value << 8 | value >> 8); }
static inline u32 be32(u32 value) { return __builtin_bswap32(value); }

#endif
