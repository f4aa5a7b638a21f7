#ifndef GUEST_GTT_H
#define GUEST_GTT_H
#include "pci.h"
/* tsvisor's vgpu-gtt: a display whose pictures lie in guest memory, behind a table in guest memory. */

#define VGPU_GTT 0x10f71af4

void gtt_run(bdf function); /* draws, flips with the table changing meanwhile; ends the guest on failure */

#endif
