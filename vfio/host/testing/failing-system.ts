import { errno } from '../../../sys/errno.js';
import { checked } from '../../../sys/fd.js';
import { checkedResult, type Request } from '../../../sys/ioctl.js';
import type { IoctlCall } from '../../../sys/ioctl-task.js';
import { linux, type SystemFile, type VfioSystem } from '../system.js';

/** What another thread calls fails there by EBADF, whatever its errno is to be. */
const NO_FD = -1;

/** A system call that fails. */
export interface SystemFailure {
  /** An ioctl by its name, VFIO_DEVICE_RESET; or `open`, `pread`, `pwrite` or `mmap`. */
  readonly call: string;
  /** Positive. */
  readonly errno: number;
  /** Which of the calls of that name fails, from 1; 0: each. */
  readonly nth: number;
}

/** Parses `CALL:ERRNO[:NTH][+CALL...]`, as the test card's `fail=` has it. @throws RangeError for another text */
export function parseSystemFailures(text: string): readonly SystemFailure[] {
  return text.split('+').map((part) => {
    const [, call, name = '', nth = '0'] = /^(\w+):(E\w+)(?::(\d+))?$/.exec(part) ?? [];
    const number = (errno as Readonly<Record<string, number>>)[name];
    if (call === undefined || number === undefined)
      throw new RangeError(`${part}: not CALL:ERRNO[:NTH], such as VFIO_DEVICE_RESET:EIO:1`);
    return { call, errno: number, nth: Number(nth) };
  });
}

/**
 * A kernel, some of whose calls fail before they do anything: the errors are those that the calls of the real one would end
 * in, with the hint of that errno. What is open stays the real kernel's.
 */
export class FailingSystem implements VfioSystem {
  /** Names of all calls, in their order. */
  readonly calls: string[] = [];
  readonly #system: VfioSystem;
  #failures: readonly SystemFailure[] = [];
  readonly #counts = new Map<string, number>();

  constructor(system: VfioSystem = linux) {
    this.#system = system;
  }

  /** Counts anew, and lets these calls fail from now on. */
  fail(failures: readonly SystemFailure[]): void {
    this.calls.length = 0;
    this.#counts.clear();
    this.#failures = failures;
  }

  open(path: string, target?: string): SystemFile {
    this.#check('open', path);
    return this.#wrap(this.#system.open(path, target));
  }

  adopt(fd: number, target: string): SystemFile {
    return this.#wrap(this.#system.adopt(fd, target));
  }

  deviceNumber(fd: number) {
    return this.#system.deviceNumber(fd);
  }

  #wrap(file: SystemFile): SystemFile {
    const call = file.call?.bind(file);
    const at = (offset: number) => `${file.target} at 0x${offset.toString(16)}`;
    return {
      target: file.target,
      get fd() {
        return file.fd;
      },
      ioctl: (request, argument, target = file.target) => {
        const failed = this.#next(request.name);
        if (failed !== undefined) return checkedResult(-failed, request, target);
        return file.ioctl(request, argument, target);
      },
      ...(call && {
        call: (request: Request, argument: Uint8Array): IoctlCall => {
          const made = call(request, argument);
          return this.#next(request.name) === undefined ? made : { ...made, fd: NO_FD };
        },
      }),
      pread: (offset, data) => {
        this.#check('pread', at(offset));
        return file.pread(offset, data);
      },
      pwrite: (offset, data) => {
        this.#check('pwrite', at(offset));
        return file.pwrite(offset, data);
      },
      mmap: (offset, bytes) => {
        this.#check('mmap', at(offset));
        return file.mmap(offset, bytes);
      },
      [Symbol.dispose]: () => file[Symbol.dispose](),
    };
  }

  /** @throws SysError if this call fails */
  #check(call: string, target: string): void {
    const failed = this.#next(call);
    if (failed !== undefined) checked(-failed, call, target);
  }

  /** The errno of a call that fails. */
  #next(call: string): number | undefined {
    const count = (this.#counts.get(call) ?? 0) + 1;
    this.#counts.set(call, count);
    this.calls.push(call);
    return this.#failures.find((each) => each.call === call && (each.nth === 0 || each.nth === count))?.errno;
  }
}
