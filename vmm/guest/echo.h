#ifndef GUEST_ECHO_H
#define GUEST_ECHO_H
#include "cpu.h"
/* Bulk traffic to the gateway's echo port (RFC 862), and the doorbell bench. The runs are silent, the reports print. */

void udp_echo_run(void);
bool udp_echo_report(void); /* true if every datagram came back right */
void tcp_echo_run(void);
bool tcp_echo_report(void); /* true if every byte came back right and the connection was closed in order */
void doorbell_run(void);
bool doorbell_report(void); /* true if every round trip ended by an interrupt */

#endif
