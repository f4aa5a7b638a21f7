/**
 * Frames a back-end has moved or lost, from the guest's view: tx leaves the guest, rx enters it. Plain
 * numbers, only ever growing.
 */
export interface NetCounters {
  /** Frames the back-end took from the guest. */
  readonly txFrames: number;
  /** Bytes of those frames, Ethernet header included, FCS and padding not. */
  readonly txBytes: number;
  /**
   * Frames the back-end could not take: shorter than a header, longer than the MTU allows, or refused by the
   * host.
   */
  readonly txDropped: number;
  /** Frames handed to the guest. */
  readonly rxFrames: number;
  /** Bytes of those frames. */
  readonly rxBytes: number;
  /** Frames that never reached the guest: queue full, or longer than the parts offered. */
  readonly rxDropped: number;
}

/**
 * Host end of a NIC's wire, used from the event thread only.
 *
 * Frames are bare Ethernet: no virtio-net header, no FCS, no padding to 60 bytes. No call blocks, and none
 * throws because of what a frame holds. Disposing the port closes what it opened; a disposed port takes and
 * yields nothing.
 */
export interface NetPort extends Disposable {
  /**
   * fd that becomes readable when receive() may have a frame (level-triggered epoll), or -1 when frames only
   * appear as an effect of transmit().
   */
  readonly fd: number;

  /**
   * Takes one Ethernet frame from the guest.
   * @param parts the frame, scattered; views on guest memory that the guest may change at any moment, valid
   *   during the call only
   * @returns false if the frame was dropped
   */
  transmit(parts: readonly Uint8Array[]): boolean;

  /**
   * Length in bytes of the next frame waiting for the guest, 0 if there is none; -1 if it is unknown until
   * read (tap).
   */
  pending(): number;

  /**
   * Copies the next frame into `parts` in order.
   * @returns its length, 0 if none is waiting; -1 if it was longer than `parts` and so was dropped and counted
   * @throws SysError if the host's interface has failed or is gone
   */
  receive(parts: readonly Uint8Array[]): number;

  /**
   * Whether the host takes no frame just now, but will again: the next one is better left where it is until
   * `writableFd` is writable. Absent if frames are taken or dropped at once.
   */
  readonly isFull?: boolean;

  /** fd to watch for that; not the one of `fd`. There if `isFull` is. */
  readonly writableFd?: number;

  readonly counters: NetCounters;
}

/**
 * A net back-end, one per name before the colon of `--net name[:address]`.
 *
 * Guarantees of each: validate() opens nothing and does not throw; open() runs in the event thread and either
 * returns a working port or leaves nothing open.
 */
export interface NetBackend {
  readonly name: string;

  /**
   * Checks the text after the colon ('' if there is none) without opening anything; returns the problem or
   * undefined.
   */
  validate(address: string): string | undefined;

  /**
   * Opens the host end.
   * @param address a text that validate() accepts
   * @throws TypeError with validate()'s words if it does not; SysError if the host refuses
   */
  open(address: string): NetPort;
}
