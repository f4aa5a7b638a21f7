/** The option `--api unix:PATH`, and the socket that it asks for. */
import { usageError } from '../command-line.js';
import { socketProblem } from '../serial-end.js';
import type { ControlledMachine } from './routes.js';
import type { ApiSocket } from './socket.js';

const FORM = 'unix:';

/** Parses `--api`: the socket's path. @throws ConfigError */
export function parseApi(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (!text.startsWith(FORM))
    throw usageError('--api', `'${text}' is not unix:PATH: the API is on a unix socket only`);
  const path = text.slice(FORM.length);
  const problem = socketProblem(path);
  if (problem !== undefined) throw usageError('--api', problem);
  return path;
}

/** Opens the API's socket, if requested: before a sandbox, which allows no new ones. @throws SysError as ApiSocket.listen */
export async function openApiSocket(path: string | undefined): Promise<ApiSocket | undefined> {
  if (path === undefined) return undefined;
  const { ApiSocket } = await import('./socket.js');
  return ApiSocket.listen(path);
}

/** Serves the API on its socket, if there is one, and says where it is. @throws SysError as ApiServer.start */
export async function openApi(
  machine: ControlledMachine,
  socket: ApiSocket | undefined,
  say: (text: string) => void,
): Promise<AsyncDisposable | undefined> {
  if (socket === undefined) return undefined;
  const [{ ApiServer }, { version }] = await Promise.all([import('./server.js'), import('../version.js')]);
  const server = await ApiServer.start(machine, socket, version());
  say(`controlled over ${server.path}: tsvisor ctl ${server.path} info`);
  return server;
}
