#ifndef GUEST_PRINT_H
#define GUEST_PRINT_H
#include "cpu.h"
/* Prints to COM1: %s, %c, %u, %x, %lu, %lx, with a width (padded with blanks, or with zeros if it starts with 0). */

void serial_init(void);
void serial_drain(void);
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints an address stored as four bytes in wire order. */
#define IPV4 "%u.%u.%u.%u"
#define IPV4_BYTES(ip) (ip) & 255, (ip) >> 8 & 255, (ip) >> 16 & 255, (ip) >> 24

#endif
