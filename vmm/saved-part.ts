/** A part of the machine with a state of its own. Machine thread only. */
export interface SavedPart {
  /** Of its section in the machine's saved state: `platform/rtc`. */
  readonly name: string;
  /** Its state, of fixed length. */
  save(): Uint8Array;
  /** Takes over a saved state, which is untrusted. Returns false if it is none. */
  load(state: Uint8Array): boolean;
}
