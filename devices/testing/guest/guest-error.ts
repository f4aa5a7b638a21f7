/** Why a guest does not answer. */
export type GuestFailure = 'panicked' | 'ended' | 'timeout';

const indented = (title: string, lines: readonly string[]): string =>
  lines.length === 0 ? '' : `\n  ${title}:${lines.map((line) => `\n    ${line}`).join('')}`;

/** What goes into a {@link GuestError}'s text. */
export interface GuestErrorInit {
  readonly reason: GuestFailure;
  /** What was not done, and how it ended: `run 'modprobe x': the guest panicked`. */
  readonly what: string;
  /** The first lines of an oops. */
  readonly oops?: readonly string[];
  /** The last lines of the console. */
  readonly console: readonly string[];
  /** The last lines of the command's output. */
  readonly output?: readonly string[];
  /** What QEMU said. */
  readonly qemu?: readonly string[];
  /** Which registers the guest reads in vain, by device. */
  readonly spins?: readonly string[];
  readonly hint?: string;
}

/** A guest that panicked, ended or did not get ready in time. Its text has the last lines, and what the guest spins on. */
export class GuestError extends Error {
  /** What happened. */
  readonly reason: GuestFailure;
  /** The registers that the guest reads in vain, if the devices are watched: `i801: HST_STS reads 0x1, 900 times in 2.1 s`. */
  readonly spins: readonly string[];

  /** @internal */
  constructor({
    reason,
    what,
    oops = [],
    console,
    output = [],
    qemu = [],
    spins = [],
    hint,
  }: GuestErrorInit) {
    super(
      what +
        indented('the guest spins on', spins) +
        indented('output, last lines', output) +
        indented('oops, first lines', oops) +
        indented('console, last lines', console) +
        indented('QEMU', qemu) +
        (hint === undefined ? '' : `\n  hint: ${hint}`),
    );
    this.name = 'GuestError';
    this.reason = reason;
    this.spins = spins;
  }
}
