import { signalEventfd } from '../../sys/eventfd.js';

/**
 * An interrupt pin with vfio-pci's rules, in memory that threads share: each interrupt masks the pin until the user
 * unmasks it; if it is still asserted then, it interrupts again. Any thread can change it at any time.
 */
export type IntxPinBuffer = SharedArrayBuffer;

const WORDS = { isAsserted: 0, isMasked: 1, isDisabled: 2, isHeld: 3, fd: 4, interrupts: 5 } as const;

/** Allocates a pin: deasserted, unmasked, without an eventfd. */
export const createIntxPin = (): IntxPinBuffer => {
  const buffer = new SharedArrayBuffer(Object.keys(WORDS).length * 4);
  new Int32Array(buffer)[WORDS.fd] = -1;
  return buffer;
};

/** One thread's view of a pin. */
export class IntxPin {
  readonly #words: Int32Array;

  constructor(buffer: IntxPinBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** The device's level, as in PCI_STATUS_INTERRUPT. */
  get isAsserted(): boolean {
    return Atomics.load(this.#words, WORDS.isAsserted) === 1;
  }

  set isAsserted(value: boolean) {
    this.#set(WORDS.isAsserted, value);
  }

  /** The user's mask, which each interrupt also sets. It cannot be cleared while the pin is disabled. */
  set isMasked(value: boolean) {
    if (value || Atomics.load(this.#words, WORDS.isDisabled) === 0) this.#set(WORDS.isMasked, value);
  }

  /**
   * PCI_COMMAND_INTX_DISABLE. A change masks or unmasks the pin, whatever the user's mask was.
   * @see vfio_pci_intx_mask and vfio_pci_intx_unmask, as vfio_basic_config_write calls them
   */
  set isDisabled(value: boolean) {
    const isChange = Atomics.exchange(this.#words, WORDS.isDisabled, value ? 1 : 0) !== (value ? 1 : 0);
    if (isChange) this.#set(WORDS.isMasked, value);
  }

  /** Whether the device is stopped for migration, which holds interrupts back. */
  set isHeld(value: boolean) {
    this.#set(WORDS.isHeld, value);
  }

  /** The eventfd to signal, -1 for none. Its owner must not close it while another thread can be in {@link fire}. */
  set fd(value: number) {
    Atomics.store(this.#words, WORDS.fd, value);
    this.fire();
  }

  /** Number of interrupts so far. */
  get interrupts(): number {
    return Atomics.load(this.#words, WORDS.interrupts);
  }

  /** Raises the interrupt if the pin is asserted and neither masked, disabled nor held. */
  fire(): void {
    const words = this.#words;
    const fd = Atomics.load(words, WORDS.fd);
    if (fd < 0 || Atomics.load(words, WORDS.isAsserted) === 0) return;
    if (Atomics.load(words, WORDS.isDisabled) === 1 || Atomics.load(words, WORDS.isHeld) === 1) return;
    if (Atomics.compareExchange(words, WORDS.isMasked, 0, 1) === 1) return;
    Atomics.add(words, WORDS.interrupts, 1);
    signalEventfd(fd);
  }

  #set(word: number, value: boolean): void {
    Atomics.store(this.#words, word, value ? 1 : 0);
    this.fire();
  }
}
