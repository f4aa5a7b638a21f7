import { constants } from 'node:fs';
import { errno, errnoName } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import type { Request } from '../../sys/ioctl.js';
import type { KernelQueue, KernelQueues, KernelRegion } from './port.js';
import { type TapSystem, tapIsAttached } from './tap-setup.js';
import {
  VHOST_F_LOG_ALL,
  VHOST_FILE_UNBIND,
  VHOST_GET_FEATURES,
  VHOST_GET_VRING_BASE,
  VHOST_NET_F_VIRTIO_NET_HDR,
  VHOST_NET_SET_BACKEND,
  VHOST_SET_FEATURES,
  VHOST_SET_LOG_BASE,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_OWNER,
  VHOST_SET_VRING_ADDR,
  VHOST_SET_VRING_BASE,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_ERR,
  VHOST_SET_VRING_KICK,
  VHOST_SET_VRING_NUM,
  VHOST_VRING_F_LOG,
  VhostMemory,
  VhostMemoryRegion,
  VhostVringAddr,
  VhostVringFile,
  VhostVringState,
} from './vhost-uapi.js';

export const VHOST_NET_PATH = '/dev/vhost-net';
/** Folder of its module's parameters. */
export const VHOST_PARAMETERS = '/sys/module/vhost/parameters';

/** Of kernels that do not say, because the module is not loaded yet or /sys is not there: the module's default. */
const DEFAULT_MEM_REGIONS = 64;
const OPEN_HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'load its module: modprobe vhost_net',
  ENODEV: 'load its module: modprobe vhost_net',
  EACCES: `give this user read and write access to ${VHOST_NET_PATH} (Debian: its group is kvm)`,
  EPERM: `give this process read and write access to ${VHOST_NET_PATH}`,
};
const VIRTIO_F_VERSION_1 = 1n << 32n;
const HEADERS = 1n << BigInt(VHOST_NET_F_VIRTIO_NET_HDR);
const LOG_ALL = 1n << BigInt(VHOST_F_LOG_ALL);

/** The system calls used on vhost-net, so that a test can substitute a fake: they fail as those of {@link TapSystem} do. */
export interface VhostSystem extends Pick<TapSystem, 'open' | 'close' | 'ioctl'> {
  /** Reads a small text file. */
  readText(path: string): string;
}

/** The tap behind a {@link VhostNet}, which outlives it. */
export interface VhostTap {
  /** Its name in messages. */
  readonly name: string;
  readonly fd: number;
  /** Whether its frames have headers (IFF_VNET_HDR). */
  readonly hasHeaders: boolean;
}

/**
 * /dev/vhost-net: the kernel moves frames between two virtqueues and a tap, in a thread that lives until the file is closed.
 * That thread accesses memory of the process that called {@link VhostNet.open}, by its addresses.
 * @see drivers/vhost/net.c
 */
export class VhostNet implements KernelQueues {
  readonly features: bigint;
  readonly mostRegions: number;
  readonly setLog?: (address: number) => void;
  readonly #system: VhostSystem;
  readonly #tap: VhostTap;
  readonly #running = new Map<number, KernelQueue>();
  #fd: number;
  #accepted: bigint;
  #isLogged = false;

  private constructor(system: VhostSystem, tap: VhostTap, fd: number) {
    this.#system = system;
    this.#tap = tap;
    this.#fd = fd;
    this.#accepted = tap.hasHeaders ? 0n : HEADERS;
    this.#ioctl(VHOST_SET_OWNER, 0);
    const word = new BigUint64Array(1);
    this.#ioctl(VHOST_GET_FEATURES, new Uint8Array(word.buffer));
    this.features = word[0] as bigint;
    this.mostRegions = this.#readMostRegions();
    // Without headers of the tap's, the kernel has to make them.
    const needed = VIRTIO_F_VERSION_1 | (tap.hasHeaders ? 0n : HEADERS);
    if ((this.features & needed) !== needed) {
      const hint = `it lacks features 0x${(needed & ~this.features).toString(16)} that this device needs`;
      throw this.#error(VHOST_GET_FEATURES.name, errno.EOPNOTSUPP, hint);
    }
    if ((this.features & LOG_ALL) !== 0n) this.setLog = (address) => this.#setLog(address);
  }

  /**
   * Opens vhost-net for an attached tap, with this process as its owner. Leaves nothing open if it throws.
   * @throws SysError ENOENT, ENODEV, EACCES or EPERM from open(2); EAGAIN or ENOMEM for its thread; EOPNOTSUPP if it has no
   *   virtio 1.0
   */
  static open(system: VhostSystem, tap: VhostTap): VhostNet {
    let fd: number;
    try {
      fd = system.open(VHOST_NET_PATH, constants.O_RDWR);
    } catch (error) {
      const code = (error as { code?: string }).code ?? '';
      throw fromNodeError(error, 'open', `${VHOST_NET_PATH} for tap ${tap.name}`, OPEN_HINTS[code]);
    }
    try {
      return new VhostNet(system, tap, fd);
    } catch (error) {
      system.close(fd);
      throw error;
    }
  }

  setFeatures(features: bigint): void {
    this.#accepted = (features & this.features & ~HEADERS & ~LOG_ALL) | (this.#tap.hasHeaders ? 0n : HEADERS);
    this.#setFeatures();
  }

  setMemory(regions: readonly KernelRegion[]): void {
    const table = VhostMemory.encode({ nregions: regions.length }, regions.length * VhostMemoryRegion.size);
    for (const [i, { iova, bytes, address }] of regions.entries()) {
      const region = {
        guest_phys_addr: BigInt(iova),
        memory_size: BigInt(bytes),
        userspace_addr: BigInt(address),
      };
      VhostMemoryRegion.write(table, region, VhostMemory.size + i * VhostMemoryRegion.size);
    }
    this.#ioctl(VHOST_SET_MEM_TABLE, table);
  }

  start(queue: KernelQueue): void {
    const { index, size, position, kick, call, err } = queue;
    this.#ioctl(VHOST_SET_VRING_NUM, VhostVringState.encode({ index, num: size }));
    this.#ioctl(VHOST_SET_VRING_BASE, VhostVringState.encode({ index, num: position }));
    this.#setAddresses(queue);
    try {
      this.#setFile(VHOST_SET_VRING_ERR, index, err);
      this.#setFile(VHOST_SET_VRING_CALL, index, call);
      this.#setFile(VHOST_SET_VRING_KICK, index, kick);
      this.#setFile(VHOST_NET_SET_BACKEND, index, this.#tap.fd);
    } catch (error) {
      this.#letGo(index);
      throw error;
    }
    this.#running.set(index, queue);
  }

  stop(index: number): number {
    // Waits for what its thread is doing with the queue.
    this.#setFile(VHOST_NET_SET_BACKEND, index, VHOST_FILE_UNBIND);
    this.#running.delete(index);
    const state = VhostVringState.encode({ index });
    this.#ioctl(VHOST_GET_VRING_BASE, state);
    this.#letGo(index);
    return VhostVringState.decode(state).num & 0xffff;
  }

  setCall(index: number, fd: number): void {
    this.#setFile(VHOST_SET_VRING_CALL, index, fd);
  }

  get isPortGone(): boolean {
    return !tapIsAttached(this.#system, this.#tap.fd);
  }

  /** The kernel allows this while queues run: each of them is between two packets then. */
  #setLog(address: number): void {
    if (address !== 0)
      this.#ioctl(VHOST_SET_LOG_BASE, new Uint8Array(BigUint64Array.of(BigInt(address)).buffer));
    this.#isLogged = address !== 0;
    this.#setFeatures();
    for (const queue of this.#running.values()) this.#setAddresses(queue);
  }

  #setFeatures(): void {
    const features = this.#accepted | (this.#isLogged ? LOG_ALL : 0n);
    this.#ioctl(VHOST_SET_FEATURES, new Uint8Array(BigUint64Array.of(features).buffer));
  }

  #setAddresses({ index, desc, used, avail, usedIova }: KernelQueue): void {
    const addresses = {
      desc_user_addr: BigInt(desc),
      used_user_addr: BigInt(used),
      avail_user_addr: BigInt(avail),
    };
    const log = this.#isLogged ? { flags: 1 << VHOST_VRING_F_LOG, log_guest_addr: BigInt(usedIova) } : {};
    this.#ioctl(VHOST_SET_VRING_ADDR, VhostVringAddr.encode({ index, ...addresses, ...log }));
  }

  /** Otherwise doorbells would wake its thread, and it would keep eventfds of others alive. */
  #letGo(index: number): void {
    for (const request of [VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR])
      this.#setFile(request, index, VHOST_FILE_UNBIND);
  }

  #setFile(request: Request, index: number, fd: number): void {
    this.#ioctl(request, VhostVringFile.encode({ index, fd }));
  }

  #ioctl(request: Request, argument: Uint8Array | number): void {
    const result = this.#system.ioctl(this.#fd, request.number, argument);
    if (result >= 0) return;
    throw this.#error(request.name, -result, request.hints[errnoName(-result)]);
  }

  #error(call: string, code: number, hint: string | undefined): SysError {
    return new SysError({ call, target: `${VHOST_NET_PATH} for tap ${this.#tap.name}`, errno: code, hint });
  }

  #readMostRegions(): number {
    try {
      const most = Number(this.#system.readText(`${VHOST_PARAMETERS}/max_mem_regions`));
      return Number.isSafeInteger(most) && most > 0 ? most : DEFAULT_MEM_REGIONS;
    } catch {
      return DEFAULT_MEM_REGIONS;
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return;
    this.#system.close(this.#fd);
    this.#fd = -1;
  }
}
