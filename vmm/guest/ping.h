#ifndef GUEST_PING_H
#define GUEST_PING_H
#include "cpu.h"

/* ICMP echoes to the gateway, one at a time; keeps the results for the report. Silent. */
void ping_run(void);
void ping_report(void);
u32 ping_replies(void); /* number of correct replies */

#endif
