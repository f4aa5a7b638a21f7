/** A place in a BAR, as a capability names it. */
export interface BarPlace {
  /** 0 to 5. */
  readonly bar: number;
  /** Bytes from the BAR's start, a multiple of 8. */
  readonly offset: number;
}

/** The body of an MSI-X capability, after the id and the next pointer. PCI Local Bus 3.0, section 6.8.2 */
export function msixCapability(vectors: number, table: BarPlace, pba: BarPlace): Uint8Array {
  const body = new Uint8Array(10);
  const view = new DataView(body.buffer);
  view.setUint16(0, vectors - 1, true);
  view.setUint32(2, table.offset | table.bar, true);
  view.setUint32(6, pba.offset | pba.bar, true);
  return body;
}
