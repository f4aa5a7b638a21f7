#ifndef GUEST_DHCP_H
#define GUEST_DHCP_H
#include "cpu.h"

/* Sets own.ip and gateway.ip from a lease (RFC 2131); false if there is no offer. */
bool dhcp_lease(void);

#endif
