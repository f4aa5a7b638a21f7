#ifndef GUEST_DISPLAY_H
#define GUEST_DISPLAY_H
#include "pci.h"
/* A bochs-display card: sets a mode, and draws the picture that abi.h describes. */

#define BOCHS_DISPLAY 0x11111234

void display_run(bdf function); /* sets the mode, draws, reads back; ends the guest on failure */

#endif
