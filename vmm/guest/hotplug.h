#ifndef GUEST_HOTPLUG_H
#define GUEST_HOTPLUG_H
#include "cpu.h"

/* Looks at bus 0 at every tick, and drives each NIC and display that appears, until `count` of them have come and gone. A
 * NIC stays in use until it is gone; `ping` sends over it. */
void hotplug_run(u32 count, void (*ping)(void));

#endif
