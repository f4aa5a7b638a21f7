/** Ctrl-A, as QEMU's users know it. */
const ESCAPE = 0x01;

/** @param ending what Ctrl-A x does */
export const escapeHelp = (ending: string): readonly string[] => [
  `Ctrl-A x  ${ending}`,
  'Ctrl-A p  press its power button',
  'Ctrl-A h  print this',
  'Ctrl-A Ctrl-A  send Ctrl-A to the guest',
];

/** What the keys after Ctrl-A do. */
export interface EscapeActions {
  readonly end: () => void;
  readonly powerButton: () => void;
  readonly help: () => void;
}

/** Takes the escape keys out of what is typed at a terminal. */
export class EscapeKeys {
  readonly #actions: EscapeActions;
  #isEscaped = false;

  constructor(actions: EscapeActions) {
    this.#actions = actions;
  }

  /** Returns the bytes for the guest. A key after Ctrl-A that means nothing is dropped. */
  filter(typed: Uint8Array): Uint8Array {
    if (!this.#isEscaped && !typed.includes(ESCAPE)) return typed;
    const bytes: number[] = [];
    for (const byte of typed) {
      if (this.#isEscaped) this.#escaped(byte, bytes);
      else if (byte === ESCAPE) this.#isEscaped = true;
      else bytes.push(byte);
    }
    return Uint8Array.from(bytes);
  }

  #escaped(byte: number, bytes: number[]): void {
    this.#isEscaped = false;
    switch (byte) {
      case ESCAPE:
        bytes.push(ESCAPE);
        break;
      case 'x'.charCodeAt(0):
        this.#actions.end();
        break;
      case 'p'.charCodeAt(0):
        this.#actions.powerButton();
        break;
      case 'h'.charCodeAt(0):
      case '?'.charCodeAt(0):
        this.#actions.help();
        break;
    }
  }
}
