#ifndef GUEST_VERDICT_H
#define GUEST_VERDICT_H
#include "cpu.h"

/* Stops the NIC, prints the verdict line, writes the code to PORT_VERDICT and halts. why is NULL for VERDICT_OK. */
_Noreturn void finish(u8 code, const char *why);

#endif
