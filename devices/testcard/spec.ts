/** The test card's registers, BARs and capabilities: what a guest's driver needs to know. docs/test-card.md says it in words. */

/** QEMU's identifiers for devices without a vendor; this device is not one of QEMU's. */
export const PCI_VENDOR_ID_TEST = 0x1234;
/** The card's, of these. */
export const PCI_DEVICE_ID_TESTCARD = 0x7463;
/** That of its virtual functions. */
export const PCI_DEVICE_ID_TESTCARD_VF = 0x7476;
/** PCI_REVISION_ID. */
export const TESTCARD_REVISION = 1;
/** Unassigned class. */
export const PCI_CLASS_OTHERS = 0xff00;

/** Memory, 32 bits: the registers below, and the MSI-X table among them. */
export const REGISTER_BAR = 0;
/** Its size. */
export const REGISTER_BAR_BYTES = 0x1_0000;
/** Ports: the first registers again. */
export const PORT_BAR = 1;
/** Its size. */
export const PORT_BAR_BYTES = 0x20;
/** Memory, 64 bits, prefetchable, and mapped into the guest. */
export const RAM_BAR = 2;
/** Memory, 32 bits, smaller than a page: bytes that keep what is written. */
export const SMALL_BAR = 4;
/** Its size. */
export const SMALL_BAR_BYTES = 0x100;

// Registers of BAR 0, 32 bits each
/** Reads as {@link CARD_ID}. */
export const REG_ID = 0x00;
/** Keeps what is written. */
export const REG_SCRATCH = 0x04;
/** Write: interrupts, by this message, or by the pin while messages are off. */
export const REG_RAISE = 0x08;
/** Read: 1 while the pin is asserted. Write: deasserts it. */
export const REG_PIN = 0x0c;
/** Interrupts since the card was opened. */
export const REG_INTERRUPTS = 0x10;
/** Doorbells rung since the reset. */
export const REG_DOORBELLS = 0x14;
/** Message that doorbells cause; {@link NO_VECTOR} for none. */
export const REG_DOORBELL_VECTOR = 0x18;
/** Write: number of a fault in bits 0 to 7, its argument in the others. Read: bits of those that the card has. */
export const REG_FAULT = 0x1c;
/** 64 bits: address that a transfer reads. */
export const REG_DMA_SOURCE = 0x20;
/** 64 bits: address that a transfer writes. */
export const REG_DMA_TARGET = 0x28;
/** Bytes of a transfer; entries of {@link DMA_SCATTER}'s list. */
export const REG_DMA_LENGTH = 0x30;
/** The byte of {@link DMA_FILL}. */
export const REG_DMA_VALUE = 0x34;
/** Write: begins a transfer. */
export const REG_DMA_COMMAND = 0x38;
/** DMA_IDLE, DMA_BUSY, DMA_DONE or DMA_ERROR. */
export const REG_DMA_STATUS = 0x3c;
/** CRC-32 of all bytes moved. */
export const REG_DMA_CRC = 0x40;
/** Bytes moved. */
export const REG_DMA_MOVED = 0x44;
/** Message that the end of a transfer causes; {@link NO_VECTOR} for none. */
export const REG_DMA_VECTOR = 0x48;
/** Milliseconds from the command to the transfer, at most {@link MOST_DELAY_MS}. */
export const REG_DMA_DELAY = 0x4c;
/** Where the registers end. */
export const REGISTERS_BYTES = 0x50;

/** "card" */
export const CARD_ID = 0x6472_6163;
/** No message. */
export const NO_VECTOR = 0xffff_ffff;

// REG_DMA_COMMAND
/** From source to target. */
export const DMA_COPY = 1;
/** The low byte of REG_DMA_VALUE to the target. */
export const DMA_FILL = 2;
/** Reads the source, for its CRC-32. */
export const DMA_CHECK = 3;
/** At the source stands a list of copies: 64 bits of source, 64 of target, 32 of bytes, 32 reserved. */
export const DMA_SCATTER = 4;
/** Of an entry of that list. */
export const SCATTER_ENTRY_BYTES = 24;
/** Of a list. */
export const MOST_SCATTER_ENTRIES = 256;
/** Most bytes of a transfer: of all entries of a list together. */
export const MOST_DMA_BYTES = 16 << 20;
/** Of REG_DMA_DELAY. */
export const MOST_DELAY_MS = 60_000;

// REG_DMA_STATUS
/** Since the reset, no transfer. */
export const DMA_IDLE = 0;
/** One runs, or waits. */
export const DMA_BUSY = 1;
/** It has ended well. */
export const DMA_DONE = 2;
/** The command, its length, or an address was not valid, or bus mastering was off. */
export const DMA_ERROR = 3;

/** Each of the doorbells is 32 bits; any value rings. */
export const DOORBELL_AT = 0x400;
/** How many there are. */
export const DOORBELLS = 4;
/** Of each. */
export const DOORBELL_BYTES = 4;
/** The MSI-X table. What is left of the BAR is memory, whose whole pages are mapped into the guest. */
export const MSIX_TABLE_AT = 0x800;
/** The pending bits of MSI-X. */
export const MSIX_PBA_AT = 0x9000;

/** Virtual functions that a card can have: those that are left of its slot. */
export const MOST_VFS = 7;
/** Where a guest finds the SR-IOV capability of a card that has some. */
export const SRIOV_AT = 0x200;
