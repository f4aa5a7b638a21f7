/* IDT and exception report. */
#include "trap.h"
#include "abi.h"
#include "print.h"
#include "verdict.h"

volatile u64 timer_interrupts, config_interrupts, rx_interrupts, tx_interrupts, intx_interrupts;
u64 isr_status;

extern const char exception_entries[];
void timer_entry(void), config_entry(void), rx_entry(void), tx_entry(void), intx_entry(void), spurious_entry(void);

static struct gate {
  u16 low, selector;
  u16 type;
  u16 middle;
  u32 high, reserved;
} idt[VECTORS];

struct frame {
  u64 vector, error, rip, cs, rflags, rsp, ss;
};

static void set_gate(u32 vector, u64 entry) {
  idt[vector].low = (u16)entry;
  idt[vector].selector = CODE_SELECTOR;
  idt[vector].type = 0x8e00; /* present, 64-bit interrupt gate, IST 0 */
  idt[vector].middle = (u16)(entry >> 16);
}

void trap_init(void) {
  for (u32 vector = 0; vector < 32; vector++) set_gate(vector, (u64)exception_entries + vector * 16);
  set_gate(VECTOR_TIMER, (u64)timer_entry);
  set_gate(VECTOR_CONFIG, (u64)config_entry);
  set_gate(VECTOR_RX, (u64)rx_entry);
  set_gate(VECTOR_TX, (u64)tx_entry);
  set_gate(VECTOR_INTX, (u64)intx_entry);
  set_gate(VECTOR_SPURIOUS, (u64)spurious_entry);
  const struct __attribute__((packed)) {
    u16 limit;
    u64 base;
  } pointer = {sizeof idt - 1, (u64)idt};
  asm volatile("lidt %0" ::"m"(pointer), "m"(idt));
}

_Noreturn void report_exception(const struct frame *frame) {
  u64 cr2;
  asm volatile("mov %%cr2, %0" : "=r"(cr2));
  print("\nexception %lu at rip 0x%lx, error code 0x%lx, cr2 0x%lx, rsp 0x%lx\n", frame->vector, frame->rip,
        frame->error, cr2, frame->rsp);
  finish(VERDICT_EXCEPTION, "exception");
}
