#ifndef GUEST_TRAP_H
#define GUEST_TRAP_H
/* Vectors, descriptor tables and interrupt counters. Also included by start.S. */

#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10

#define LAPIC_BASE 0xfee00000
#define LAPIC_EOI 0xb0

#define VECTOR_TIMER 0x30
#define VECTOR_CONFIG 0x31
#define VECTOR_RX 0x32
#define VECTOR_TX 0x33
#define VECTOR_INTX 0x34
#define VECTOR_SPURIOUS 0x3f /* low four bits set, as older LAPICs hard-wire them */
#define VECTORS 0x40

#ifndef __ASSEMBLER__
#include "cpu.h"

extern volatile u64 timer_interrupts, config_interrupts, rx_interrupts, tx_interrupts, intx_interrupts;
extern u64 isr_status; /* address of the virtio ISR status byte, read by the INTx handler */

void trap_init(void);
_Noreturn void crash_ud2(void);
_Noreturn void crash_triple(void);
_Noreturn void crash_int3(void);
#endif

#endif
