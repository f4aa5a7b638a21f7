import { basename } from 'node:path';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { EventThread } from '../../../sys/event-task.js';
import { Scope } from '../../../sys/scope.js';
import { unixPathProblem } from '../../../sys/unix-socket.js';
import { workerUrl } from '../../../sys/worker-url.js';
import { isUserAddress, USER_ADDRESSES, VFIO_USER_PREFIX } from '../../addresses.js';
import { optionProblem, unknownOptions } from '../../option-problem.js';
import type { AssignableDevice, VfioProvider } from '../../provider.js';
import {
  type ContainerFile,
  type DeviceFile,
  type GroupFile,
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '../../uapi.js';
import { Connection } from './connection.js';
import { UserContainerFile } from './container.js';
import { UserDeviceFile } from './device.js';
import type { TwinNotice, TwinTaskData } from './twin-task.js';

const DEFAULT_TIMEOUT_MS = 5000;
const MOST_TIMEOUT_S = 3600;
/** Options of an address, and their meanings. */
const OPTIONS: Readonly<Record<string, string>> = {
  timeout: 'timeout of each reply, in seconds; default 5',
  twin: 'off has the server send its requests on the main socket; default on',
  trust: 'on maps memory that the server could truncate, which would kill this process',
};

const userError = (call: string, target: string, code: keyof typeof errno, hint?: string): SysError =>
  new SysError({ call, target, errno: errno[code], hint });

/** A server, which is a group of one device. */
interface Peer {
  readonly connection: Connection;
  readonly trustsServer: boolean;
  isOpen: boolean;
}

/** vfio-user as a provider: it has the group interface only, and its files cannot be associated with a VM. */
export type UserProvider = VfioProvider & Required<Pick<VfioProvider, 'groups'>>;

/**
 * Devices of other processes, through the vfio-user protocol: `vfio-user:/run/nic.sock`. Machine thread only.
 * @param eventThread waits for requests of the servers
 */
export function userProvider(eventThread: EventThread): UserProvider {
  const peers = new Map<number, Peer>();
  let lastGroup = 0;
  return {
    ...USER_ADDRESSES,
    matches: isUserAddress,
    checkOptions: (address, options) =>
      unixPathProblem(address.slice(VFIO_USER_PREFIX.length)) ??
      optionProblem(() => parseOptions(address, options)),
    resolve(address, options) {
      const { timeoutMs, trustsServer, hasTwin } = parseOptions(address, options);
      using scope = new Scope();
      const path = address.slice(VFIO_USER_PREFIX.length);
      const connection = scope.own(Connection.open(path, timeoutMs, hasTwin));
      const description = describe(connection, trustsServer);
      const task = scope.own(
        eventThread.run(workerUrl('vfio/user/client/socket-task.js'), { fd: connection.fd }),
      );
      task.receive = () => connection.serveRequests();
      connection.whenBacklog(() => task.post('backlog'));
      if (connection.twin !== undefined) serveTwin(connection, scope, eventThread);
      const group = lastGroup++;
      peers.set(group, { connection, trustsServer, isOpen: false });
      scope.defer(() => peers.delete(group));
      const owned = scope.move();
      return {
        name: path,
        group,
        description,
        [Symbol.dispose]: () => owned[Symbol.dispose](),
      } satisfies AssignableDevice;
    },
    groups: {
      openContainer: () => new UserContainerFile(),
      openGroup(number) {
        const peer = peers.get(number);
        if (peer === undefined) throw userError('open', 'vfio-user', 'ENODEV', `there is no group ${number}`);
        return new UserGroupFile(number, peer);
      },
    },
  };
}

/** Has the event thread serve the requests on a twin socket. */
function serveTwin(connection: Connection, scope: Scope, eventThread: EventThread): void {
  const { twin, dmaTable } = connection;
  if (twin === undefined || dmaTable === undefined) return;
  const data: TwinTaskData = { fd: twin, table: dmaTable.buffer };
  const task = scope.own(eventThread.run(workerUrl('vfio/user/client/twin-task.js'), data));
  task.receive = (notice) => connection.giveUp((notice as TwinNotice).problem);
}

function parseOptions(address: string, options: Readonly<Record<string, string>>) {
  const wrong = (hint: string) => userError('resolve', address, 'EINVAL', hint);
  const unknown = unknownOptions(Object.keys(options), OPTIONS);
  if (unknown !== undefined) throw wrong(unknown);
  const { timeout, trust = 'off', twin = 'on' } = options;
  const isNumber = timeout === undefined || /^\d+(\.\d+)?$/.test(timeout);
  const seconds = timeout === undefined ? DEFAULT_TIMEOUT_MS / 1000 : isNumber ? Number(timeout) : 0;
  if (!(seconds > 0 && seconds <= MOST_TIMEOUT_S))
    throw wrong(`timeout=${timeout} is not a number of seconds`);
  for (const [name, value] of Object.entries({ trust, twin }))
    if (value !== 'on' && value !== 'off') throw wrong(`${name}=${value} is neither on nor off`);
  return { timeoutMs: Math.ceil(seconds * 1000), trustsServer: trust === 'on', hasTwin: twin === 'on' };
}

/** Describes the device by the vendor and device ID in its configuration space. */
function describe(connection: Connection, trustsServer: boolean): string {
  using device = new UserDeviceFile(connection, trustsServer);
  const { offset, size } = device.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX);
  const ids = new Uint8Array(4);
  if (size >= ids.length) device.read(offset, ids);
  const hex = (at: number) =>
    (((ids[at + 1] as number) << 8) | (ids[at] as number)).toString(16).padStart(4, '0');
  return `PCI device ${hex(0)}:${hex(2)} of the vfio-user server at ${basename(connection.path)}`;
}

class UserGroupFile implements GroupFile {
  readonly target: string;
  readonly #peer: Peer;
  #container: UserContainerFile | undefined;
  #devices = 0;
  #isClosed = false;

  constructor(number: number, peer: Peer) {
    this.target = `group ${number} (vfio-user)`;
    if (peer.isOpen) throw userError('open', this.target, 'EBUSY', 'a group has one user at a time');
    this.#peer = peer;
    peer.isOpen = true;
  }

  getStatus(): number {
    return VFIO_GROUP_FLAGS_VIABLE | (this.#container === undefined ? 0 : VFIO_GROUP_FLAGS_CONTAINER_SET);
  }

  setContainer(container: ContainerFile): void {
    const call = 'VFIO_GROUP_SET_CONTAINER';
    if (this.#container !== undefined) throw userError(call, this.target, 'EINVAL', 'it has a container');
    if (!(container instanceof UserContainerFile))
      throw userError(call, this.target, 'EINVAL', `${container.target} is not one of vfio-user`);
    container.add(this.#peer.connection);
    this.#container = container;
  }

  unsetContainer(): void {
    const call = 'VFIO_GROUP_UNSET_CONTAINER';
    if (this.#container === undefined) throw userError(call, this.target, 'EINVAL', 'it has no container');
    if (this.#devices > 0) throw userError(call, this.target, 'EBUSY', 'its device is open');
    this.#container.remove(this.#peer.connection);
    this.#container = undefined;
  }

  getDeviceFd(name: string): DeviceFile {
    const call = 'VFIO_GROUP_GET_DEVICE_FD';
    const { connection, trustsServer } = this.#peer;
    if (this.#container === undefined)
      throw userError(call, this.target, 'EINVAL', 'put it into a container first');
    this.#container.getIommuInfo();
    if (name !== connection.path)
      throw userError(call, this.target, 'ENODEV', `it has ${connection.path} only`);
    const device = new UserDeviceFile(connection, trustsServer);
    this.#devices++;
    const close = device[Symbol.dispose].bind(device);
    let isOpen = true;
    device[Symbol.dispose] = () => {
      close();
      if (!isOpen) return;
      isOpen = false;
      this.#devices--;
      if (this.#isClosed) this.#release();
    };
    return device;
  }

  /** An open device keeps its group open, and the group in its container. */
  #release(): void {
    if (this.#devices > 0) return;
    if (this.#container !== undefined) this.unsetContainer();
    this.#peer.isOpen = false;
  }

  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#release();
  }
}
