#ifndef GUEST_ECHO_H
#define GUEST_ECHO_H
#include "cpu.h"
/* Bulk traffic to the gateway's echo port (RFC 862), and the doorbell benchmark. The runs are silent, the reports
 * print. */

void udp_echo_run(void);
bool udp_echo_report(void); /* true if every datagram was returned intact */
void tcp_echo_run(void);
bool tcp_echo_report(void); /* true if every byte was returned intact and the connection closed properly */
void doorbell_run(void);
bool doorbell_report(void); /* true if every round trip ended with an interrupt */

#endif
