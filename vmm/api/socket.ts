import { UnixListener } from '../../sys/unix-socket.js';

/**
 * The socket of an API, on which clients wait until {@link ApiServer.start} gives it a machine. It is its owner's alone (mode
 * 0600) from the moment it exists. Disposing it removes its file; the server does that, too.
 */
export class ApiSocket implements Disposable {
  readonly #listener: UnixListener;

  private constructor(listener: UnixListener) {
    this.#listener = listener;
  }

  /**
   * Listens. The file of a process that no longer listens is replaced.
   * @throws SysError EADDRINUSE if another process listens there, or the file is not a socket; EINVAL for an invalid path
   */
  static listen(path: string): ApiSocket {
    return new ApiSocket(UnixListener.listen(path, 0o600));
  }

  /** Where it is. */
  get path(): string {
    return this.#listener.path;
  }

  /** A duplicate of its descriptor, which the caller must close. */
  duplicateFd(): number {
    return this.#listener.fd.duplicate().number;
  }

  /** Closes it, and removes its file. */
  [Symbol.dispose](): void {
    this.#listener[Symbol.dispose]();
  }
}
