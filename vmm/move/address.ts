/** Where a machine moves to: `unix:PATH` or `tcp:HOST:PORT`. */
import { once } from 'node:events';
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import { UnixListener, unixPathProblem } from '../../sys/unix-socket.js';

type Address =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

const TCP = /^tcp:(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/;

/** Why a text is no address; undefined if it is one. */
export function moveAddressProblem(text: string): string | undefined {
  if (text.startsWith('unix:')) return unixPathProblem(text.slice('unix:'.length));
  const port = Number(TCP.exec(text)?.[3]);
  return port >= 1 && port <= 65535 ? undefined : `'${text}' is neither unix:PATH nor tcp:HOST:PORT`;
}

/** @throws SysError EINVAL */
function parse(text: string): Address {
  const hint = moveAddressProblem(text);
  if (hint !== undefined) throw new SysError({ call: 'move', target: text, errno: errno.EINVAL, hint });
  if (text.startsWith('unix:')) return { kind: 'unix', path: text.slice('unix:'.length) };
  const [, six, host = six ?? '', port] = TCP.exec(text) ?? [];
  return { kind: 'tcp', host, port: Number(port) };
}

/** Connects. @throws SysError of connect(2), ETIMEDOUT; EINVAL for no address; what `signal` is aborted with */
export async function connectTo(text: string, timeoutMs: number, signal?: AbortSignal): Promise<Socket> {
  const address = parse(text);
  signal?.throwIfAborted();
  const socket = address.kind === 'unix' ? netConnect(address.path) : netConnect(address.port, address.host);
  const limit = AbortSignal.timeout(timeoutMs);
  try {
    await once(socket, 'connect', {
      signal: signal === undefined ? limit : AbortSignal.any([limit, signal]),
    });
    socket.setNoDelay?.(true);
    return socket;
  } catch (error) {
    socket.destroy();
    signal?.throwIfAborted();
    if (!limit.aborted)
      throw fromNodeError(error, 'connect', text, 'start tsvisor run --incoming there first');
    const hint = `nobody has answered for ${timeoutMs} ms`;
    throw new SysError({ call: 'connect', target: text, errno: errno.ETIMEDOUT, hint });
  }
}

/**
 * Waits for the one connection, and listens no longer then. A unix socket is for its owner alone (mode 0600); who may connect by TCP may
 * send a machine, and see all of it: it belongs into a network of its own, or a tunnel.
 * @param listening called once connections are possible
 * @throws SysError of listen(2), EADDRINUSE; EINVAL for no address; what `signal` is aborted with
 */
export async function acceptAt(
  text: string,
  listening: () => void = () => {},
  signal?: AbortSignal,
): Promise<Socket> {
  const address = parse(text);
  signal?.throwIfAborted();
  using listener = address.kind === 'unix' ? UnixListener.listen(address.path, 0o600) : undefined;
  const server = createServer();
  const accepted = accept(server, text, signal);
  if (listener !== undefined) server.listen({ fd: listener.fd.duplicate().number });
  else if (address.kind === 'tcp') server.listen(address.port, address.host);
  server.once('listening', listening);
  try {
    const socket = await accepted;
    socket.setNoDelay?.(true);
    return socket;
  } finally {
    server.close();
  }
}

function accept(server: Server, text: string, signal?: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    server.once('error', (error) => reject(fromNodeError(error, 'listen', text)));
    let isTaken = false;
    server.on('connection', (socket: Socket) => {
      signal?.removeEventListener('abort', abort);
      if (isTaken) socket.destroy();
      isTaken = true;
      resolve(socket);
    });
  });
}
