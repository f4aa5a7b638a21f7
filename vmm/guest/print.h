#ifndef GUEST_PRINT_H
#define GUEST_PRINT_H
#include "cpu.h"
/* Text on COM1: %s, %c, %u, %x, %lu, %lx, with a width (padded with blanks, or with zeros if it begins with 0). */

void serial_init(void);
void serial_drain(void);
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Addresses are kept as the four bytes on the wire. */
#define IPV4 "%u.%u.%u.%u"
#define IPV4_BYTES(ip) (ip) & 255, (ip) >> 8 & 255, (ip) >> 16 & 255, (ip) >> 24

#endif
