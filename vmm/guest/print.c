/* COM1 and number formatting. */
#include "print.h"
#include "abi.h"

#define FIFO 16
#define UART_IER (PORT_COM1 + 1)
#define UART_FCR (PORT_COM1 + 2)
#define UART_LCR (PORT_COM1 + 3)
#define UART_MCR (PORT_COM1 + 4)
#define UART_LSR (PORT_COM1 + 5)
#define LSR_THRE 0x20

static char line[256];
static u32 used;

void serial_init(void) {
  outb(UART_IER, 0);
  outb(UART_LCR, 0x80); /* divisor latch: 115200 baud */
  outb(PORT_COM1, 1);
  outb(UART_IER, 0);
  outb(UART_LCR, 0x03); /* 8n1 */
  outb(UART_FCR, 0x07); /* FIFOs on and empty */
  outb(UART_MCR, 0x03);
}

/* Bounded: a UART that never drains must not hang the guest. */
void serial_drain(void) {
  for (u32 tries = 0; tries < 100000 && !(inb(UART_LSR) & LSR_THRE); tries++) pause();
}

static void flush(void) {
  for (u32 at = 0; at < used; at += FIFO) {
    serial_drain();
    outs(PORT_COM1, line + at, used - at < FIFO ? used - at : FIFO);
  }
  used = 0;
}

static void put(char c) {
  line[used++] = c;
  if (c == '\n' || used == sizeof line) flush();
}

static void number(u64 value, u32 base, u32 width, char pad) {
  char digits[20];
  u32 count = 0;
  do {
    digits[count++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value);
  for (; width > count; width--) put(pad);
  while (count) put(digits[--count]);
}

void print(const char *format, ...) {
  __builtin_va_list arguments;
  __builtin_va_start(arguments, format);
  for (; *format; format++) {
    if (*format != '%') {
      put(*format);
      continue;
    }
    format++;
    char pad = *format == '0' ? '0' : ' ';
    u32 width = 0;
    for (; *format >= '0' && *format <= '9'; format++) width = width * 10 + (u32)(*format - '0');
    bool wide = *format == 'l';
    if (wide) format++;
    if (*format == 's') {
      for (const char *text = __builtin_va_arg(arguments, const char *); *text; text++) put(*text);
    } else if (*format == 'c') {
      put((char)__builtin_va_arg(arguments, int));
    } else {
      u64 value = wide ? __builtin_va_arg(arguments, u64) : __builtin_va_arg(arguments, u32);
      number(value, *format == 'x' ? 16 : 10, width, pad);
    }
  }
  __builtin_va_end(arguments);
}
