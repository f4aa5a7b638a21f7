/** The option `--api unix:PATH`. */
import { unixPathProblem } from '../../sys/unix-socket.js';
import { usageError } from '../command-line.js';
import type { ControlledMachine } from './routes.js';

const FORM = 'unix:';

/** Parses `--api`: the socket's path. @throws ConfigError */
export function parseApi(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (!text.startsWith(FORM))
    throw usageError('--api', `'${text}' is not unix:PATH: the API is on a unix socket only`);
  const path = text.slice(FORM.length);
  const problem = unixPathProblem(path);
  if (problem !== undefined) throw usageError('--api', problem);
  return path;
}

/** Opens the API, if requested, and says where it is. @throws SysError as ApiServer.start */
export async function openApi(
  machine: ControlledMachine,
  path: string | undefined,
  say: (text: string) => void,
): Promise<AsyncDisposable | undefined> {
  if (path === undefined) return undefined;
  const [{ ApiServer }, { version }] = await Promise.all([import('./server.js'), import('../version.js')]);
  const server = await ApiServer.start(machine, path, version());
  say(`controlled over ${path}: tsvisor ctl ${path} info`);
  return server;
}
