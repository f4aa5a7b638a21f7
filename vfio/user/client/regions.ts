/** A peer's regions: their infos, and the descriptors for mapping them. */
import { fstatSync } from 'node:fs';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { duplicateFd, type Fd } from '../../../sys/fd.js';
import { fileKind, Mapping } from '../../../sys/mapping.js';
import { trace } from '../../../sys/trace.js';
import { mmapProblem, regionOffset, regionPlace, sparseAreas, trapped } from '../../region-layout.js';
import { type RegionInfo, type RegionIoEventFd, VFIO_REGION_INFO_FLAG_MMAP } from '../../uapi.js';
import { decodeIoFds, decodeRegionInfo, ioFdsRequest, regionInfoRequest } from '../message.js';
import {
  MAX_ANSWER_FDS,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_GET_REGION_IO_FDS,
  VFIO_USER_IO_FD_TYPE_IOEVENTFD,
} from '../protocol.js';
import type { Connection } from './connection.js';

const SHORT_ARGSZ = 32;
const SHORT_IO_ARGSZ = 16;
const MOST_ARGSZ = 64 * 1024;
/** Servers of version 0.0 (rust-vmm) do not read the payload of an unknown command, which corrupts the stream. */
const IO_FDS_MINOR = 1;
const PAGE = 4096;

interface Known {
  readonly info: RegionInfo;
  /** The file of the mappable parts, and the region's offset in it. */
  readonly file: RegionFile | undefined;
  /** The same as the server gave it, and its info, whether or not it can be mapped here. */
  readonly given: { readonly info: RegionInfo; readonly file: RegionFile } | undefined;
}

interface RegionFile {
  readonly fd: Fd;
  readonly offset: number;
}

export class UserRegions implements Disposable {
  readonly #connection: Connection;
  readonly #count: number;
  readonly #trustsServer: boolean;
  readonly #known: Known[] = [];
  /** Whether another process has a file of it. */
  #isPassedOn = false;
  readonly #ioFds: (readonly (RegionIoEventFd & { readonly owned: Fd })[])[] = [];

  constructor(connection: Connection, count: number, trustsServer: boolean) {
    this.#connection = connection;
    this.#count = count;
    this.#trustsServer = trustsServer;
  }

  #error(call: string, hint: string): SysError {
    return new SysError({ call, target: this.#connection.path, errno: errno.EINVAL, hint });
  }

  info(index: number): RegionInfo {
    return this.#region(index).info;
  }

  #region(index: number): Known {
    if (!Number.isInteger(index) || index < 0 || index >= this.#count)
      throw this.#error('VFIO_DEVICE_GET_REGION_INFO', `there is no region ${index}`);
    this.#known[index] ??= this.#ask(index);
    return this.#known[index];
  }

  /** Asks with the smallest reply size first, then with the size that the peer requires. */
  #ask(index: number): Known {
    const command = VFIO_USER_DEVICE_GET_REGION_INFO;
    let fds: Fd[] = [];
    const ask = (argsz: number) => {
      const answer = this.#connection.ask(command, regionInfoRequest(argsz, index), [], 1);
      for (const fd of fds) fd[Symbol.dispose]();
      fds = answer.fds;
      return decodeRegionInfo(command, answer.payload);
    };
    try {
      let told = ask(SHORT_ARGSZ);
      if (!told.isWhole) told = ask(Math.min(told.argsz, MOST_ARGSZ));
      const { flags, size, capabilities, fdOffset } = told;
      const info: RegionInfo = { index, flags, size, offset: regionOffset(index), capabilities };
      const [fd] = fds;
      const problem = fd === undefined ? 'the server passes no descriptor' : this.#problemOf(fd, told);
      const isMappable = (flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0;
      if (isMappable && problem !== undefined) this.#note(index, problem);
      if (!isMappable || fd === undefined) return { info: trapped(info), file: undefined, given: undefined };
      fds = fds.slice(1);
      const file = { fd, offset: fdOffset };
      const given = told.isWhole ? { info, file } : undefined;
      return problem === undefined
        ? { info, file, given }
        : { info: trapped(info), file: undefined, given: given ?? close(fd) };
    } finally {
      for (const fd of fds) fd[Symbol.dispose]();
    }
  }

  /** Why a region is not mapped: accessing a file that is too short, or becomes so, would kill this process. */
  #problemOf(
    fd: Fd,
    { size, fdOffset, capabilities, isWhole }: ReturnType<typeof decodeRegionInfo>,
  ): string | undefined {
    if (!isWhole) return 'the server does not report which parts can be mapped';
    const areas = sparseAreas({ capabilities }) ?? [{ offset: 0, size }];
    if (areas.some(({ offset, size: bytes }) => (offset | bytes | fdOffset) % PAGE !== 0))
      return 'its areas are not of whole pages';
    const kind = fileKind(fd);
    if (kind !== 'sealed' && !this.#trustsServer)
      return kind === 'huge'
        ? 'its memory is of huge pages, which the host may not have; option trust=on maps it anyway'
        : 'the server could truncate its memory (no F_SEAL_SHRINK); option trust=on maps it anyway';
    const stat = fstatSync(fd.number);
    if (
      kind === 'huge' &&
      areas.some(({ offset, size: bytes }) => (offset | bytes | fdOffset) % stat.blksize !== 0)
    )
      return `its areas are not of whole pages of ${stat.blksize} bytes`;
    const end = Math.max(0, ...areas.map(({ offset, size: bytes }) => offset + bytes));
    if (stat.isFile() && stat.size < fdOffset + end)
      return `its file has ${stat.size} bytes, fewer than the region needs`;
    return undefined;
  }

  #note(index: number, problem: string): void {
    if (!trace.vfio.hasSubscribers) return;
    const text = `region ${index} of ${this.#connection.path} is not mapped: ${problem}`;
    trace.vfio.publish({ what: 'vfio-user', text });
  }

  /** The region at an offset in the device file. @throws SysError EINVAL for an unknown index */
  place(call: string, offset: number): { readonly info: RegionInfo; readonly at: number } {
    const { index, at } = regionPlace(offset);
    const info = this.info(index);
    if (at < info.size) return { info, at };
    throw this.#error(
      call,
      `offset 0x${at.toString(16)} of region ${info.index}, which has ${info.size} bytes`,
    );
  }

  /**
   * Whether the guest also accesses the device through memory or doorbells, which must not overtake written messages.
   */
  get hasOtherWays(): boolean {
    return (
      this.#isPassedOn ||
      this.#known.some((known) => known?.file !== undefined) ||
      this.#ioFds.some((fds) => (fds?.length ?? 0) > 0)
    );
  }

  /** @see DeviceFile.getRegionFile */
  given(index: number): Known['given'] {
    const { given } = this.#region(index);
    if (given !== undefined) this.#isPassedOn = true;
    return given;
  }

  mmap(offset: number, bytes: number): Mapping {
    const { info, at } = this.place('mmap', offset);
    const { file } = this.#region(info.index);
    const problem = mmapProblem(info, at, bytes);
    if (file === undefined || problem !== undefined)
      throw this.#error('mmap', problem ?? `region ${info.index} cannot be mapped`);
    return Mapping.file(file.fd, bytes, {
      offset: file.offset + at,
      target: `${this.#connection.path} region ${info.index}`,
    });
  }

  /** The region's doorbells; none if the peer does not have the command. */
  ioFds(index: number): readonly RegionIoEventFd[] {
    this.#region(index);
    this.#ioFds[index] ??= this.#askIoFds(index);
    return this.#ioFds[index];
  }

  #askIoFds(index: number): readonly (RegionIoEventFd & { readonly owned: Fd })[] {
    if (this.#connection.minor < IO_FDS_MINOR) return [];
    const command = VFIO_USER_DEVICE_GET_REGION_IO_FDS;
    let fds: Fd[] = [];
    try {
      const short = this.#connection.ask(command, ioFdsRequest(SHORT_IO_ARGSZ, index));
      const { argsz, count } = decodeIoFds(command, short.payload);
      if (count === 0) return [];
      const request = ioFdsRequest(Math.min(argsz, MOST_ARGSZ), index);
      const answer = this.#connection.ask(command, request, [], MAX_ANSWER_FDS);
      ({ fds } = answer);
      return decodeIoFds(command, answer.payload).ioFds.flatMap((ioFd) => {
        const fd = fds[ioFd.fdIndex];
        // Other types require a reader in this process; writes to them go by message.
        if (ioFd.type !== VFIO_USER_IO_FD_TYPE_IOEVENTFD || fd === undefined) return [];
        const owned = duplicateFd(fd.number, `doorbell of ${this.#connection.path}`);
        const { offset, size, datamatch } = ioFd;
        return [{ offset, size, fd: owned.number, owned, ...(datamatch === undefined ? {} : { datamatch }) }];
      });
    } catch (error) {
      if (error instanceof SysError && !this.#connection.isGone) return [];
      throw error;
    } finally {
      for (const fd of fds) fd[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    // A file that is mapped here is always one that can be given.
    for (const known of this.#known) known?.given?.file.fd[Symbol.dispose]();
    for (const doorbells of this.#ioFds) for (const { owned } of doorbells ?? []) owned[Symbol.dispose]();
    this.#known.length = 0;
    this.#ioFds.length = 0;
  }
}

function close(fd: Fd): undefined {
  fd[Symbol.dispose]();
}
