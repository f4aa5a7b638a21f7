/* Entry, descriptor tables and interrupt entry points. */
        .file   "start.S" /* otherwise the symbol table names a temporary file */
#include "abi.h"
#include "trap.h"

        .section .text.start, "ax"
        .globl _start
_start:
        movb    $PHASE_ENTRY, %al
        outb    %al, $PORT_PHASE
        cld
        movl    $stack_top, %esp
        lgdt    gdt_pointer(%rip)
        movl    $DATA_SELECTOR, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        pushq   $CODE_SELECTOR
        leaq    1f(%rip), %rax
        pushq   %rax
        lretq
1:      xorl    %ebp, %ebp
        call    guest_main

        .text
/* One entry per exception vector, 16 bytes apart. Pushes the vector, and an error code of 0 if the CPU pushes none. */
        .globl exception_entries
        .balign 16
exception_entries:
        .set    vector, 0
        .rept   32
        .balign 16
        .if     vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && \
                vector != 17 && vector != 21 && vector != 29 && vector != 30
        pushq   $0
        .endif
        pushq   $vector
        jmp     exception
        .set    vector, vector + 1
        .endr

exception:
        movq    %rsp, %rdi
        andq    $-16, %rsp
        call    report_exception

/* The handlers only count: the main loop reads the rings. LAPIC addresses do not fit a signed 32-bit displacement. */
        .macro  count_interrupt name, counter
        .globl  \name
\name:  incq    \counter(%rip)
        pushq   %rax
        movl    $LAPIC_BASE + LAPIC_EOI, %eax
        movl    $0, (%rax)
        popq    %rax
        iretq
        .endm

        count_interrupt timer_entry, timer_interrupts
        count_interrupt config_entry, config_interrupts
        count_interrupt rx_entry, rx_interrupts
        count_interrupt tx_entry, tx_interrupts

/* INTx stays asserted until the ISR status byte is read (virtio 1.2, 4.1.4.5). */
        .globl  intx_entry
intx_entry:
        pushq   %rax
        movq    isr_status(%rip), %rax
        movb    (%rax), %al
        testb   $1, %al
        jz      1f
        incq    intx_interrupts(%rip)
1:      movl    $LAPIC_BASE + LAPIC_EOI, %eax
        movl    $0, (%rax)
        popq    %rax
        iretq

/* A spurious interrupt needs no EOI. */
        .globl  spurious_entry
spurious_entry:
        iretq

        .globl  crash_ud2, crash_triple, crash_int3
crash_triple:
        lidt    empty_idt_pointer(%rip)
crash_ud2:
        ud2
crash_int3:
        int3
        ret
        .type   _start, @function
        .type   exception, @function
        .type   timer_entry, @function
        .type   config_entry, @function
        .type   rx_entry, @function
        .type   tx_entry, @function
        .type   intx_entry, @function
        .type   spurious_entry, @function
        .type   crash_triple, @function
        .type   crash_ud2, @function
        .type   crash_int3, @function

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00af9b000000ffff      /* 64-bit code, accessed */
        .quad   0x00cf93000000ffff      /* data, accessed */
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
empty_idt_pointer:
        .word   0
        .quad   0

        .bss
        .balign 16
        .skip   16384
stack_top:

        .section .note.GNU-stack, "", @progbits
