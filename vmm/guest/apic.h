#ifndef GUEST_APIC_H
#define GUEST_APIC_H
#include "cpu.h"

void apic_init(void); /* 8259s masked, LAPIC on */
u32 apic_id(void);
/* Level-triggered, active low, as PCI interrupts are. False if the IOAPIC has no such pin. */
bool ioapic_route(u32 pin, u8 vector);
void ioapic_mask(u32 pin);

#endif
