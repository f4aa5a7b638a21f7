/** Counters of a back-end, from the guest's view: tx leaves the guest, rx enters it. They only grow. */
export interface NetCounters {
  /** Frames taken from the guest. */
  readonly txFrames: number;
  /** Bytes of those frames, with the Ethernet header, without FCS and padding. */
  readonly txBytes: number;
  /**
   * Frames from the guest that were dropped: shorter than a header, longer than the MTU allows, or rejected by the
   * host.
   */
  readonly txDropped: number;
  /** Frames delivered to the guest. */
  readonly rxFrames: number;
  /** Bytes of those frames. */
  readonly rxBytes: number;
  /** Frames for the guest that were dropped: queue full, or longer than the parts offered. */
  readonly rxDropped: number;
}

/**
 * Work on frames that one side leaves to the other: checksums and segmentation. Sets of them are `TUN_F_` bits of
 * linux/if_tun.h.
 */
export interface NetOffloads {
  /** What the host end takes over from the guest, and may leave to it. */
  readonly offered: number;
  /**
   * Sets what the guest takes over from now on. The host end leaves nothing else to it in frames that arrive later;
   * those that already wait are as they are. Does not throw.
   */
  accept(offloads: number): void;
}

/**
 * Host end of a NIC's wire. Event thread only.
 *
 * Frames are bare Ethernet: no virtio-net header (unless the port has `offloads`), no FCS, no padding to 60 bytes. No
 * call blocks, and none throws because of a frame's contents. Disposing closes whatever the port opened; a disposed port
 * drops and yields nothing.
 */
export interface NetPort extends Disposable {
  /**
   * If present, each frame of `transmit` and `receive` begins with a struct virtio_net_hdr_v1 (12 bytes), which lengths
   * include and counters do not. The host end checks those that it takes; `num_buffers` of those that it gives is
   * undefined.
   */
  readonly offloads?: NetOffloads;

  /**
   * Readable when receive() may have a frame (level-triggered epoll); -1 if frames appear only as a result of
   * transmit().
   */
  readonly fd: number;

  /**
   * Sends one Ethernet frame from the guest.
   * @param parts the frame, scattered; views of guest memory, which may change at any time, valid only during the call
   * @returns false if the frame was dropped
   */
  transmit(parts: readonly Uint8Array[]): boolean;

  /** Length in bytes of the next frame for the guest; 0 if there is none; -1 if it is unknown until read (tap). */
  pending(): number;

  /**
   * Copies the next frame into `parts` in order.
   * @returns its length; 0 if there is none; -1 if it was longer than `parts`, and so was dropped and counted
   * @throws SysError if the host's interface failed or was removed
   */
  receive(parts: readonly Uint8Array[]): number;

  /**
   * Whether the host currently accepts no frames: keep the next one until `writableFd` is writable. Absent if frames
   * are accepted or dropped at once.
   */
  readonly isFull?: boolean;

  /** fd to watch for room, distinct from `fd`. Present if `isFull` is. */
  readonly writableFd?: number;

  /**
   * Of a port that is one of several of a NIC ({@link NetBackend.openPair}): whether the guest uses its queue pair. Until
   * then, and again later, the host end gives it no frames, and nobody calls `transmit` and `receive`. Returns false, without
   * a change, if the host refuses. Absent if nothing has to be done.
   */
  setActive?(isActive: boolean): boolean;

  /** Counts since the port was opened. */
  readonly counters: NetCounters;

  /**
   * If present, a data path of the kernel that can move the frames in place of `transmit` and `receive`; closed with the
   * port. Or why the port, which was to have one, has none: a sentence for a person.
   */
  readonly kernel?: KernelQueues | { readonly refusal: string };
}

/** Guest memory that a {@link KernelQueues} can access. */
export interface KernelRegion {
  /** First I/O virtual address, as the guest's descriptors have it. */
  readonly iova: number;
  /** Length in bytes. */
  readonly bytes: number;
  /** First address in this process. */
  readonly address: number;
}

/** A split virtqueue, as {@link KernelQueues.start} takes it. */
export interface KernelQueue {
  /** 0 receives, 1 transmits. */
  readonly index: number;
  /** Descriptors, a power of two. */
  readonly size: number;
  /** Address of its descriptors in this process. */
  readonly desc: number;
  /** Address of its available ring. */
  readonly avail: number;
  /** Address of its used ring. */
  readonly used: number;
  /** I/O virtual address of its used ring, by which writes to it are logged. */
  readonly usedIova: number;
  /** Index of the first chain to take, 16 bits. */
  readonly position: number;
  /** Eventfd of the guest's doorbell; like the other two, it stays open until the queue is stopped. */
  readonly kick: number;
  /** Eventfd of the interrupt. */
  readonly call: number;
  /** Eventfd that is signalled for an error of the queue, which then waits for the next doorbell. */
  readonly err: number;
}

/**
 * A data path of the kernel between a guest's virtqueues and a port, as vhost-net. Event thread only. It serves the queues
 * in a thread of its own: no call waits for the guest. Calls throw the SysError of the kernel's refusal.
 */
export interface KernelQueues {
  /** Virtio features that it implements. */
  readonly features: bigint;
  /** Most regions that {@link setMemory} takes. */
  readonly mostRegions: number;
  /** Sets the features that the guest's driver has accepted, of those it implements; while no queue runs. */
  setFeatures(features: bigint): void;
  /** Replaces the memory that descriptors may name: when it returns, no other is accessed by them. The rings are apart. */
  setMemory(regions: readonly KernelRegion[]): void;
  /** Starts a queue. A queue that cannot be started is stopped. */
  start(queue: KernelQueue): void;
  /**
   * Stops a running queue: when it returns, no memory is accessed for it and no eventfd is signalled. Returns the index
   * of the next chain that it would have taken.
   */
  stop(index: number): number;
  /** Replaces the interrupt's eventfd of a running queue; the old one is no longer signalled. */
  setCall(index: number, fd: number): void;
  /**
   * Has the pages logged that it writes, or not any more: all writes after the return. Absent if it cannot. If it throws, it may log
   * or not; a call with 0 then ends that, or else the disposal.
   * @param address of a bitmap in this process, to which its thread writes until a call with 0 returns; 0 to end. Page n, of 4096 bytes
   *   from IOVA 4096 * n on, is bit n % 8 of byte n / 8, which is set, atomically, after the page is written. It must have a bit for
   *   each page of all regions, now and later: none is compared with its length.
   */
  readonly setLog?: (address: number) => void;
  /** Whether the port's interface has been removed: the kernel then drops every frame, and says nothing. */
  readonly isPortGone: boolean;
  /** Ends its thread and closes it, whatever state the queues are in. A second call does nothing. */
  [Symbol.dispose](): void;
}

/** A queue pair of a NIC that has several. */
export interface NetPair {
  /** From 0 on; the guest uses the first one always. */
  readonly index: number;
  /** How many there are. */
  readonly count: number;
}

/**
 * A net back-end, selected by the name before the colon of `--net name[:address]`.
 *
 * validate() opens nothing and does not throw. open() runs in the event thread, and either returns a working port or
 * leaves nothing open.
 */
export interface NetBackend {
  /** Its name in `net=`: `tap`, `passt`, `responder`. */
  readonly name: string;

  /**
   * Checks the text after the colon ('' if there is none) without opening anything. Returns the problem, or undefined.
   * @param pairs queue pairs of the NIC; 1 if absent, and always without {@link openPair}
   */
  validate(address: string, pairs?: number): string | undefined;

  /**
   * Opens the host end.
   * @param address a text that validate() accepts
   * @throws TypeError with validate()'s problem otherwise; SysError if the host rejects it
   */
  open(address: string): NetPort;

  /**
   * Present if a NIC can have several queue pairs (`queues=N`): opens the port of one of them, in that pair's event thread.
   * The first one's is active, and the others' are not. @see NetPort.setActive
   * @throws as {@link open}
   */
  openPair?(address: string, pair: NetPair): NetPort;

  /** Descriptors of this process that an address names: no two NICs may have the same. */
  descriptors?(address: string): readonly number[];
}
