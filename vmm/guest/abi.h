#ifndef GUEST_ABI_H
#define GUEST_ABI_H
/*
 * The built-in guest: the contract between this image and the machine that runs it.
 *
 * Image     ELF64 ET_EXEC, x86-64, p_paddr = p_vaddr from 0x100000 (1 MiB) up. Two PT_LOAD segments: code and constants
 *           (R-X), data and rings (RW-). The loader zeroes p_memsz beyond p_filesz. RAM from 1 MiB to 2.25 MiB is used,
 *           all DMA buffers included, and with a vgpu-gtt RAM from 4 to 16 MiB; page tables, GDT and command
 *           line of the loader lie outside of it.
 * Entry     _start: long mode, CPL 0, IF = 0, flat segments, the low 4 GiB identity-mapped (so the LAPIC at 0xFEE00000,
 *           the IOAPIC at 0xFEC00000 and the PCI windows are reachable), LAPIC in xAPIC mode as after reset.
 *           RDI = address of a NUL-terminated command line, which stays readable. Every other register is undefined: the
 *           guest has its own stack, GDT and IDT.
 * Code      integer instructions only: no x87/SSE, no INT n, no POPCNT/LZCNT/TZCNT, no RDTSCP, no XGETBV (one INT3, in
 *           crash_int3). Interrupts are on once the LAPIC is set up; waiting is CLI, a check, STI, HLT, and the LAPIC
 *           timer (every 10 ms at a 1 GHz bus clock) bounds each sleep. The 8259s are masked, the PIT is not used.
 * COM1      0x3F8, 8n1, text, "\n" ends a line; one LSR read per 16 characters, which are sent with one REP OUTSB.
 * Phases    one byte to port 0x80: PHASE_* below. Between PHASE_TRAFFIC and PHASE_TRAFFIC_END the guest does no port I/O
 *           and prints nothing (except on an exception). With irq=msix its only accesses to the NIC there are 16-bit
 *           writes to the notify addresses; with irq=intx the handler also reads the ISR status byte.
 *           Between PHASE_DRAW and PHASE_DRAWN it only writes and reads video memory.
 * Verdict   one byte to port 0xF4: VERDICT_* below. Before it the NIC is reset and bus mastering is off; a
 *           display stays on. After it the vCPU stays in CLI; HLT.
 *
 * Command line: words separated by blanks, all optional. Numbers are decimal or 0x-hexadecimal.
 *   pings=10               ICMP echoes to the gateway, 0..1024, payloads from 56 to mtu-28 bytes
 *   mtu=1500               576..2000; the device's own MTU wins if smaller
 *   tsc_khz=N              TSC frequency; without it the TSC is measured for 10 ms against the LAPIC timer, 1 ns per tick
 *   mmio=BASE,SIZE         where the NIC's memory BARs go, below 4 GiB. Without it they keep their addresses
 *   mmio64=BASE,SIZE       where its 64-bit BARs go, if the window ends below 4 GiB; else they go to mmio
 *   io=BASE,SIZE           where its I/O BARs go
 *   ecam=BASE              check that ECAM and 0xCF8/0xCFC agree on the header of each function and on each empty slot
 *   ip=A.B.C.D gw=A.B.C.D  used with nodhcp, or without a DHCP reply; 10.0.2.15 and 10.0.2.2
 *   nodhcp                 skip DHCP
 *   irq=msix|intx          msix: vectors 0 config, 1 rx, 2 tx. intx: IOAPIC pin, level-triggered, active low
 *   intx_gsi=N             the IOAPIC pin; default: the interrupt line register
 *   quiet                  print only the totals, the verdict and errors
 *   udp=COUNT,BYTES,WINDOW after the pings: UDP echo, gateway port 7; BYTES of payload 8..mtu-28, WINDOW 1..128
 *   tcp=BYTES              then: TCP echo, gateway port 7, each byte verified; up to 0x7fffffff
 *   doorbell=COUNT         then: COUNT times {publish a 60-byte frame, kick, sleep until its tx interrupt}
 *   xres=N yres=N          the display's mode, 64..4095 by 32..4095, 32 bits per pixel; default: the first timing of its
 *                          EDID, else 640 x 480
 *   frames=N               then N more pictures with moving bars, 30 per second; the last equals the first
 *   flips=N                then N frames of one colour each, drawn where the display does not show, then shown by its Y_OFFSET;
 *                          then the picture again. With a vgpu-gtt, N flips between two pictures that are the same, and before
 *                          each, 8 pages of the one that is not shown move, as the table then says
 *   hotplug=N              look at bus 0 every 10 ms, and use each NIC (ARP, pings) and display that appears, one NIC at a
 *                          time, until N devices have come and gone; then verdict 0
 *   reset                  after that, reset the machine (port 0xCF9) instead of the verdict
 *   samples                print the time of each of the first 8192 udp or doorbell round trips, in the report
 *   spin                   never halt while waiting: poll the used rings, interrupts enabled
 *   halt-test              verdict 0 at once
 *   bug=rx-id              trust the buffer ids in the receive ring, as a driver must not: for tests of hostile devices
 *   crash=ud2|triple|int3  execute UD2; load an empty IDT and execute UD2; execute INT3
 *
 * Picture, if there is a bochs-display (1234:1111) or a vgpu-gtt (1af4:10f7), before the NIC is probed; w x h pixels,
 * 0xRRGGBB, integer division:
 *   y < h/2                eight bars, x*8/w: white, yellow, cyan, green, magenta, red, blue, black
 *   below                  x*255/(w-1) of red, green, blue, each in a third: from line h/2 + (h - h/2)*i/3
 *   noise                  over both, 64 x 32 pixels from (w-64)/2, (h-32)/2, line by line: s starts as w | h << 16, then for
 *                          each pixel s ^= s << 13, s ^= s >> 17, s ^= s << 5 (32 bits), and the pixel is s & 0xffffff
 *   display: id b0c5, 8192 KiB, 1024 x 768 pixels of 32 bits
 *   display: drawn and read back in 5210 us, noise 0xfb888468      the sum of the noise's pixels, 32 bits
 *   display: vgpu-gtt, 600 entries at 0x400000, 640 x 480 pixels of 32 bits
 *   display: 1000 flips, 9987 updates of the table followed, noise 0x0bd6ae53
 *
 * Report, after PHASE_REPORT (the interrupt and packet counts include DHCP and ARP):
 *   ping  3: 370 bytes from 10.0.2.2: ok, 85 us      or: no reply, wrong checksum, wrong length, wrong payload, not sent
 *   10/10 replies, 13 rx interrupts, 13 tx interrupts      with irq=intx: 10/10 replies, 13 INTx interrupts
 *   rx 13 packets 9301 bytes, tx 13 packets 8809 bytes
 *   2 times a frame was found by the timer, not by an rx interrupt      only if it happened: interrupts are late or lost
 *   udp: 2000 of 2000 datagrams of 1024 bytes returned in 35634 us, 56126 packets/s, 2048000 bytes, 57473 kB/s each way
 *   tcp: 300000 of 300000 bytes echoed in 33048 us, 9077 kB/s each way, 213 segments out, 416 in, 0 time-outs
 *   doorbell: 200 of 200 round trips, 120084 cycles each (46 us), least 35334, most 2475590
 *   doorbell, ns each: 45210 46020 ...               with samples, 12 in a line; also udp, ns each: ...
 *   hotplug: ready                                   with hotplug, and then any of:
 *   hotplug: the NIC in slot 3 works, 10/10 replies  or: was pulled out, if that happened before the last reply
 *   hotplug: the display in slot 4 is drawn
 *   hotplug: slot 3 is empty
 *   verdict: ok                                      or: verdict: failed (why)
 * During pings, DHCP and ARP the guest sleeps until an rx interrupt before it checks the ring, so a round trip includes
 * the interrupt. halt-test prints nothing.
 */

#define PORT_COM1 0x3f8
#define PORT_PHASE 0x80
#define PORT_VERDICT 0xf4
#define PORT_RESET 0xcf9

#define PHASE_ENTRY 0x10       /* first instructions */
#define PHASE_PCI 0x20         /* scan of bus 0, BARs */
#define PHASE_DISPLAY 0x24     /* the display's mode */
#define PHASE_DRAW 0x28        /* drawing starts */
#define PHASE_DRAWN 0x2c       /* and ends */
#define PHASE_VIRTIO 0x30      /* features, queues, vectors */
#define PHASE_CONFIG 0x40      /* DHCP, ARP */
#define PHASE_TRAFFIC 0x50     /* pings, udp, tcp, doorbell start */
#define PHASE_TRAFFIC_END 0x60 /* and end */
#define PHASE_REPORT 0x70

#define VERDICT_OK 0
#define VERDICT_REPLIES 1    /* replies missing or corrupt */
#define VERDICT_NO_NIC 2     /* none of 1af4:1041, 1234:1111 and 1af4:10f7 on bus 0 */
#define VERDICT_VIRTIO 3     /* BARs, capabilities, features or queues unusable */
#define VERDICT_CONFIG 4     /* no ARP reply from the gateway */
#define VERDICT_EXCEPTION 5  /* vector, rip, error code and cr2 were printed */
#define VERDICT_OPTIONS 6    /* command line not understood */
#define VERDICT_INTERRUPTS 7 /* packets arrived or were sent without interrupts; or no timer */
#define VERDICT_ECAM 8       /* ECAM and mechanism #1 differ */
#define VERDICT_DISPLAY 9    /* no registers, a mode that does not fit, memory that does not hold, a flip or update missed */

/* For the pictures of a vgpu-gtt, and its table. */
#define GTT_MEMORY 0x400000ul
#define GTT_MEMORY_BYTES 0xc00000ul

#define NOISE_WIDTH 64
#define NOISE_HEIGHT 32

#endif
