/** An access to a register. */
export interface RegisterAccess {
  /** What the driver did. */
  readonly kind: 'read' | 'write';
  /** The register's name, `NAME+N` for bytes inside, or region and offset where none is declared: `bar0+0x1c`. */
  readonly name: string;
  /** Index of the VFIO region. */
  readonly region: number;
  /** In the region, in bytes. */
  readonly offset: number;
  /** In bytes, 4 at most: larger accesses are several. */
  readonly size: number;
  /** Little-endian. */
  readonly value: number;
  /** Milliseconds since the watch began. */
  readonly at: number;
}

const text = ({ kind, name, value }: RegisterAccess): string => `${kind} ${name} 0x${value.toString(16)}`;

/** The last accesses to a device's registers, oldest first. */
export class RegisterTrace {
  readonly #capacity: number;
  /** A ring once it is full. */
  readonly #ring: RegisterAccess[] = [];
  #oldest = 0;
  #dropped = 0;

  constructor(capacity: number) {
    if (!Number.isSafeInteger(capacity) || capacity < 1)
      throw new RangeError(`a trace cannot keep ${capacity} accesses`);
    this.#capacity = capacity;
  }

  /** How many accesses are no longer kept. */
  get dropped(): number {
    return this.#dropped;
  }

  /** The accesses that are kept. */
  accesses(): readonly RegisterAccess[] {
    return [...this.#ring.slice(this.#oldest), ...this.#ring.slice(0, this.#oldest)];
  }

  /** The name of each access. */
  names(): string[] {
    return this.accesses().map(({ name }) => name);
  }

  /** Each access as text: `write HST_CNT 0x48`. */
  lines(): string[] {
    return this.accesses().map(text);
  }

  /** As {@link lines}, but reads that repeat the one before them are left out: the same however often a driver polls. */
  steps(): string[] {
    return this.lines().filter((line, i, all) => line.startsWith('write') || line !== all[i - 1]);
  }

  /** The values read from a register. */
  reads(name: string): number[] {
    return this.#values('read', name);
  }

  /** The values written to a register. */
  writes(name: string): number[] {
    return this.#values('write', name);
  }

  /** Forgets all, so that a test sees only what follows. */
  clear(): void {
    this.#ring.length = 0;
    this.#oldest = 0;
    this.#dropped = 0;
  }

  /** @internal */
  add(access: RegisterAccess): void {
    if (this.#ring.length < this.#capacity) {
      this.#ring.push(access);
      return;
    }
    this.#ring[this.#oldest] = access;
    this.#oldest = (this.#oldest + 1) % this.#capacity;
    this.#dropped++;
  }

  #values(kind: RegisterAccess['kind'], name: string): number[] {
    return this.accesses()
      .filter((access) => access.kind === kind && access.name === name)
      .map(({ value }) => value);
  }
}
