import { checked, Fd } from './fd.js';
import * as libc from './libc.js';

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLLIN = 1;
const EPOLLOUT = 4;
const EPOLLET = 2 ** 31;
const MAX_EVENTS = 64;
/** struct epoll_event is packed on x86-64: u32 events, u64 data. */
const EVENT_WORDS = 3;

/** An epoll instance. Used by the thread that created it; owns its descriptor. */
export class Epoll implements Disposable {
  readonly #fd: Fd;
  readonly #ready = new Map<number, () => void>();
  readonly #events = new libc.PinnedBytes(MAX_EVENTS * EVENT_WORDS * 4);
  readonly #words = new Uint32Array(this.#events.bytes.buffer);
  readonly #wait: (timeoutMs: number) => number;
  #lastKey = 0;

  private constructor(fd: Fd) {
    this.#fd = fd;
    this.#wait = libc.prepareEpollWait(fd.number, this.#events.address, MAX_EVENTS);
  }

  /** @throws SysError EMFILE, ENFILE, ENOMEM */
  static create(): Epoll {
    return new Epoll(Fd.adopt(checked(libc.epollCreate1(EPOLL_CLOEXEC), 'epoll_create1', 'epoll'), 'epoll'));
  }

  /**
   * Calls `ready` when `fd` is readable. @see EventContext.watch
   * @throws SysError EPERM for an fd that does not support epoll; EEXIST if it is watched already; EBADF
   */
  watch(fd: number, ready: () => void, isEdge = false): Disposable {
    return this.#add(fd, isEdge ? EPOLLIN + EPOLLET : EPOLLIN, ready);
  }

  /** Calls `ready` while `fd` is writable. @see EventContext.watchWritable @throws SysError as {@link watch} */
  watchWritable(fd: number, ready: () => void): Disposable {
    return this.#add(fd, EPOLLOUT, ready);
  }

  #add(fd: number, events: number, ready: () => void): Disposable {
    const key = ++this.#lastKey;
    const event = new Uint32Array([events, key, 0]);
    const added = libc.epollCtl(this.#fd.number, EPOLL_CTL_ADD, fd, new Uint8Array(event.buffer));
    checked(added, 'epoll_ctl EPOLL_CTL_ADD', `fd ${fd}`);
    this.#ready.set(key, ready);
    return {
      [Symbol.dispose]: () => {
        if (!this.#ready.delete(key)) return;
        // If the fd is closed, the kernel has removed it already: ignore the error.
        if (this.#fd.isOpen) libc.epollCtl(this.#fd.number, EPOLL_CTL_DEL, fd, this.#events.bytes);
      },
    };
  }

  /**
   * Waits for events and calls their handlers. A handler may remove any watch, its own included. @param timeoutMs -1
   * waits without limit
   */
  wait(timeoutMs: number): void {
    const count = this.#wait(timeoutMs);
    for (let i = 0; i < count; i++) this.#ready.get(this.#words[i * EVENT_WORDS + 1] as number)?.();
  }

  [Symbol.dispose](): void {
    this.#ready.clear();
    this.#events[Symbol.dispose]();
    this.#fd[Symbol.dispose]();
  }
}
