import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { ApiDispatcher } from './dispatcher.js';
import { type ControlledMachine, createRoutes } from './routes.js';
import { ApiSocket } from './socket.js';

/** Connections at once; more are closed at once. */
export const MOST_CONNECTIONS = 32;
const MOST_HEADER_BYTES = 8 << 10;
/** Time to send the headers, and the whole request. */
const HEADERS_MS = 5000;
const REQUEST_MS = 10_000;
/** How often the times above are checked. */
const CHECK_MS = 1000;
/** How long open answers have at the end. */
const FAREWELL_MS = 1000;

/**
 * The API of one machine: HTTP with JSON on a unix socket, which only its owner can connect to. A client that sends garbage,
 * hangs or dies costs a connection for some seconds. Main thread only.
 */
export class ApiServer implements AsyncDisposable {
  /** Path of its socket. */
  readonly path: string;
  readonly #socket: ApiSocket;
  readonly #server: Server;
  readonly #dispatcher: ApiDispatcher<ControlledMachine>;

  private constructor(socket: ApiSocket, server: Server, dispatcher: ApiDispatcher<ControlledMachine>) {
    this.path = socket.path;
    this.#socket = socket;
    this.#server = server;
    this.#dispatcher = dispatcher;
    server.on('request', (request, response) => void dispatcher.serve(request, response));
  }

  /**
   * Serves a machine on a unix socket that is its owner's alone (mode 0600).
   * @param at the socket's path, as for {@link ApiSocket.listen}; or that socket, which the server owns then: a sandbox does not
   *   allow new ones
   * @param version of the program, for `info` and the OpenAPI document
   * @throws SysError as {@link ApiSocket.listen}
   */
  static async start(
    machine: ControlledMachine,
    at: string | ApiSocket,
    version: string,
  ): Promise<ApiServer> {
    const socket = typeof at === 'string' ? ApiSocket.listen(at) : at;
    const server = createServer({
      maxHeaderSize: MOST_HEADER_BYTES,
      headersTimeout: HEADERS_MS,
      requestTimeout: REQUEST_MS,
      keepAliveTimeout: HEADERS_MS,
      connectionsCheckingInterval: CHECK_MS,
    });
    server.maxConnections = MOST_CONNECTIONS;
    try {
      server.listen({ fd: socket.duplicateFd() }); // which closes it
      await once(server, 'listening');
    } catch (error) {
      socket[Symbol.dispose]();
      throw error;
    }
    return new ApiServer(
      socket,
      server,
      new ApiDispatcher(machine, createRoutes({ version, by: 'API' }), version),
    );
  }

  /** Removes the socket, lets open answers end for up to a second, and closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#server.listening) return;
    this.#socket[Symbol.dispose]();
    this.#dispatcher.endFollowing();
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeIdleConnections();
    const late = setTimeout(() => this.#server.closeAllConnections(), FAREWELL_MS);
    await closed;
    clearTimeout(late);
  }
}
