/* Devices that come and go while the guest runs. There is no event for it: the guest looks. */
#include "hotplug.h"
#include "abi.h"
#include "display.h"
#include "gtt.h"
#include "nic.h"
#include "options.h"
#include "ping.h"
#include "print.h"
#include "trap.h"
#include "verdict.h"

#define SLOTS 32

static u32 driven[SLOTS]; /* the ID of the device in use; 0: none */
static u32 devices, nic_slot;

static bdf function_of(u32 slot) { return (bdf)(slot << 3); }
static u32 id_of(u32 slot) { return pci_read32(function_of(slot), PCI_ID); }

static void drive_nic(u32 slot, void (*ping)(void)) {
  nic_slot = slot;
  nic_start(function_of(slot));
  ping();
  if (id_of(slot) != VIRTIO_NET) print("hotplug: the NIC in slot %u was pulled out\n", slot);
  else if (ping_replies() != options.pings) finish(VERDICT_REPLIES, "ping replies missing or corrupt");
  else print("hotplug: the NIC in slot %u works, %u/%u replies\n", slot, ping_replies(), options.pings);
}

static void come(u32 slot, u32 id, void (*ping)(void)) {
  if (id == VIRTIO_NET && !nic_slot) drive_nic(slot, ping);
  else if (id == BOCHS_DISPLAY) display_run(function_of(slot));
  else if (id == VGPU_GTT) gtt_run(function_of(slot));
  else return;
  if (id != VIRTIO_NET) print("hotplug: the display in slot %u is drawn\n", slot);
  driven[slot] = id;
  devices++;
}

static void go(u32 slot) {
  if (slot == nic_slot) {
    nic_stop();
    nic_slot = 0;
  }
  driven[slot] = 0;
  print("hotplug: slot %u is empty\n", slot);
  if (--devices) return;
  options.mmio.used = options.mmio64.used = options.io.used = 0; /* no BAR is in use */
}

static void tick(void) {
  cli();
  sleep();
}

void hotplug_run(u32 count, void (*ping)(void)) {
  print("hotplug: ready\n");
  while (count) {
    for (u32 slot = 1; slot < SLOTS; slot++) {
      u32 id = id_of(slot);
      if (driven[slot] && id != driven[slot]) {
        go(slot);
        count--;
      } else if (!driven[slot]) come(slot, id, ping);
    }
    tick();
  }
}
