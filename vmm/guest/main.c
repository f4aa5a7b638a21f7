/* The main program. */
#include "abi.h"
#include "apic.h"
#include "clock.h"
#include "dhcp.h"
#include "display.h"
#include "echo.h"
#include "gtt.h"
#include "hotplug.h"
#include "inet.h"
#include "options.h"
#include "pci.h"
#include "ping.h"
#include "print.h"
#include "trap.h"
#include "verdict.h"

static void phase(u8 marker) { outb(PORT_PHASE, marker); }

_Noreturn void finish(u8 code, const char *why) {
  static bool stopping; /* an exception in nic_stop re-enters here */
  if (!stopping) {
    stopping = true;
    nic_stop();
  }
  if (code == VERDICT_OK) print("verdict: ok\n");
  else print("verdict: failed (%s)\n", why);
  serial_drain();
  outb(PORT_VERDICT, code);
  halt_for_ever();
}

static void configure(void) {
  phase(PHASE_CONFIG);
  if (!options.nodhcp && dhcp_lease()) {
    step("DHCP: " IPV4 ", gateway " IPV4 "\n", IPV4_BYTES(own.ip), IPV4_BYTES(gateway.ip));
  } else {
    own.ip = options.ip;
    gateway.ip = options.gw;
    step("%s: " IPV4 ", gateway " IPV4 "\n", options.nodhcp ? "static" : "no DHCP server", IPV4_BYTES(own.ip),
         IPV4_BYTES(gateway.ip));
  }
  if (!arp_gateway()) finish(VERDICT_CONFIG, "the gateway does not answer ARP");
  step("ARP: gateway is at %02x:%02x:%02x:%02x:%02x:%02x\n", gateway.mac[0], gateway.mac[1], gateway.mac[2],
       gateway.mac[3], gateway.mac[4], gateway.mac[5]);
}

static void reach_gateway(void) {
  configure();
  ping_run();
}

static bool never(void) { return false; }

static void traffic(void) {
  phase(PHASE_TRAFFIC);
  ping_run();
  if (options.udp_count) udp_echo_run();
  if (options.tcp) tcp_echo_run();
  if (options.doorbell) doorbell_run();
  else nic_wait(never, 1000); /* wait for the interrupts of the last packets, to count them */
  phase(PHASE_TRAFFIC_END);
}

static void report(void) {
  phase(PHASE_REPORT);
  ping_report();
  if (options.intx)
    print("%u/%u replies, %lu INTx interrupts\n", ping_replies(), options.pings, intx_interrupts);
  else
    print("%u/%u replies, %lu rx interrupts, %lu tx interrupts\n", ping_replies(), options.pings, rx_interrupts,
          tx_interrupts);
  step("rx %lu packets %lu bytes, tx %lu packets %lu bytes\n", nic.rx_packets, nic.rx_bytes, nic.tx_packets,
       nic.tx_bytes);
  if (nic.late) print("%lu times a frame was found by the timer, not by an rx interrupt\n", nic.late);
  bool udp = !options.udp_count || udp_echo_report(), tcp = !options.tcp || tcp_echo_report();
  bool doorbell = !options.doorbell || doorbell_report();

  if (ping_replies() != options.pings) finish(VERDICT_REPLIES, "ping replies missing or corrupt");
  if (!udp) finish(VERDICT_REPLIES, "udp echoes missing or corrupt");
  if (!tcp) finish(VERDICT_REPLIES, "tcp echo incomplete");
  if (options.intx ? !intx_interrupts : !rx_interrupts) finish(VERDICT_INTERRUPTS, "no rx interrupts");
  if (!options.intx && !tx_interrupts) finish(VERDICT_INTERRUPTS, "no tx interrupts");
  if (!doorbell) finish(VERDICT_INTERRUPTS, "tx interrupts missing");
  finish(VERDICT_OK, NULL);
}

_Noreturn void guest_main(const char *command_line) {
  const char *bad = options_parse(command_line);
  if (!bad && options.halt_test) {
    outb(PORT_VERDICT, VERDICT_OK);
    halt_for_ever();
  }
  trap_init();
  serial_init();
  if (bad) {
    print("not understood: %s\n", bad);
    finish(VERDICT_OPTIONS, "command line");
  }
  if (options.crash == CRASH_UD2) crash_ud2();
  if (options.crash == CRASH_TRIPLE) crash_triple();
  if (options.crash == CRASH_INT3) crash_int3();

  apic_init();
  if (!clock_init(options.tsc_khz)) finish(VERDICT_INTERRUPTS, "the LAPIC timer stands still");
  sti(); /* from here on; the handlers only count */
  step("TSC %lu kHz%s\n", clock_khz(), options.tsc_khz ? "" : ", measured");

  phase(PHASE_PCI);
  if (options.hotplug) {
    hotplug_run(options.hotplug, reach_gateway);
    if (options.reset) {
      serial_drain();
      outb(PORT_RESET, 6); /* a rising edge of the reset bit */
    }
    finish(VERDICT_OK, NULL);
  }
  struct wanted wanted[] = {{VIRTIO_NET, PCI_NONE}, {BOCHS_DISPLAY, PCI_NONE}, {VGPU_GTT, PCI_NONE}};
  pci_scan(wanted, 3, options.ecam);
  bdf nic_at = wanted[0].found, display_at = wanted[1].found;
  bdf gtt_at = wanted[2].found;
  if (display_at != PCI_NONE) display_run(display_at);
  if (gtt_at != PCI_NONE) gtt_run(gtt_at);
  if (nic_at == PCI_NONE) {
    if (display_at != PCI_NONE || gtt_at != PCI_NONE) finish(VERDICT_OK, NULL);
    finish(VERDICT_NO_NIC, "neither a modern virtio-net nor a display on bus 0");
  }
  phase(PHASE_VIRTIO);
  nic_start(nic_at);
  if (options.udp_count && options.udp_bytes > nic.mtu - 28) finish(VERDICT_OPTIONS, "udp: more bytes than the MTU holds");
  configure();
  traffic();
  report();
  halt_for_ever();
}
