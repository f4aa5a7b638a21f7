/* Interrupt controllers: 8259s (masked), LAPIC, one IOAPIC pin. */
#include "apic.h"
#include "trap.h"

#define IA32_APIC_BASE 0x1b
#define APIC_BASE_ENABLE 0x800

#define LAPIC_ID 0x20
#define LAPIC_TPR 0x80
#define LAPIC_SVR 0xf0
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_LVT_LINT1 0x360
#define LVT_MASKED 0x10000

#define IOREGSEL 0xfec00000ul
#define IOWIN 0xfec00010ul
#define IOAPICVER 1
#define IOREDTBL 0x10
#define REDIRECTION_ACTIVE_LOW 0x2000
#define REDIRECTION_LEVEL 0x8000
#define REDIRECTION_MASKED 0x10000

void apic_init(void) {
  outb(0x21, 0xff);
  outb(0xa1, 0xff);
  u64 base = rdmsr(IA32_APIC_BASE);
  if (!(base & APIC_BASE_ENABLE)) wrmsr(IA32_APIC_BASE, base | APIC_BASE_ENABLE);
  write32(LAPIC_BASE + LAPIC_SVR, 0x100 | VECTOR_SPURIOUS);
  write32(LAPIC_BASE + LAPIC_TPR, 0);
  write32(LAPIC_BASE + LAPIC_LVT_LINT0, LVT_MASKED);
  write32(LAPIC_BASE + LAPIC_LVT_LINT1, LVT_MASKED);
}

u32 apic_id(void) { return read32(LAPIC_BASE + LAPIC_ID) >> 24; }

static void ioapic_write(u32 reg, u32 value) {
  write32(IOREGSEL, reg);
  write32(IOWIN, value);
}

bool ioapic_route(u32 pin, u8 vector) {
  write32(IOREGSEL, IOAPICVER);
  if (pin > (read32(IOWIN) >> 16 & 255)) return false;
  ioapic_write(IOREDTBL + 2 * pin + 1, apic_id() << 24);
  ioapic_write(IOREDTBL + 2 * pin, vector | REDIRECTION_LEVEL | REDIRECTION_ACTIVE_LOW);
  return true;
}

void ioapic_mask(u32 pin) { ioapic_write(IOREDTBL + 2 * pin, REDIRECTION_MASKED); }
