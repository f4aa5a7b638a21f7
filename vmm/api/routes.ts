/** The API as a table: the server's dispatch and the OpenAPI document follow from its rows. */
import type { z } from 'zod';
import { type DeviceConfigInput, parse } from '../config.js';
import type { ConsoleRing } from '../console-ring.js';
import { checkFolder } from '../snapshot/folder.js';
import type { VirtualMachine } from '../virtual-machine.js';
import { ConsoleInput } from './console-input.js';
import * as schemas from './schemas.js';

/** What the API does with a machine; {@link VirtualMachine} implements it. */
export type ControlledMachine = Pick<
  VirtualMachine,
  | 'attach'
  | 'counters'
  | 'detach'
  | 'finished'
  | 'info'
  | 'inject'
  | 'input'
  | 'inspectDevices'
  | 'inspectMemory'
  | 'migrateTo'
  | 'pause'
  | 'pressPowerButton'
  | 'reset'
  | 'resize'
  | 'resume'
  | 'screenshot'
  | 'snapshot'
  | 'stop'
  | 'timeline'
  | 'typeSerial'
> & {
  /** Output of the first serial port. */
  readonly console: Pick<ConsoleRing, 'since' | 'listen' | 'end'>;
};

/** What a request brings. */
export interface Given {
  readonly slot: number;
  readonly query: Readonly<Record<string, unknown>>;
  /** As {@link Route.body} says. */
  readonly body: unknown;
  /** Aborted when nobody waits for the answer any more. */
  readonly gone: AbortSignal;
}

/** What is sent in return. */
export type Answer =
  | { readonly kind: 'json'; readonly value: unknown }
  | { readonly kind: 'bytes'; readonly type: string; readonly bytes: Uint8Array }
  | {
      readonly kind: 'console';
      readonly of: Pick<ControlledMachine, 'console' | 'info'>;
      readonly from: number | undefined;
      readonly isFollowing: boolean;
    }
  | { readonly kind: 'nothing' };

/** A row: one method of one path, of an API for a machine, or for something else. */
export interface Route<M = ControlledMachine> {
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE';
  /** `{slot}` stands for a PCI slot. */
  readonly path: string;
  readonly id: string;
  readonly summary: string;
  readonly query: z.ZodType<Record<string, unknown>>;
  /** What `{slot}` may be; a PCI slot if absent. */
  readonly slots?: z.ZodType<number>;
  /** JSON of a schema, which the machine checks, or bytes. */
  readonly body?: z.ZodType | 'bytes';
  /** What a success brings: JSON of a schema, bytes of a type, or nothing. */
  readonly success: { readonly status: number; readonly schema?: z.ZodType; readonly type?: string };
  answer(machine: M, given: Given): Promise<Answer> | Answer;
}

const json = (value: unknown): Answer => ({ kind: 'json', value });
const NOTHING: Answer = { kind: 'nothing' };
const none = schemas.queries.none;

/** A row without arguments that does something. */
function action(
  path: string,
  summary: string,
  act: (machine: ControlledMachine) => Promise<void> | void,
): Route {
  const id = path.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
  return {
    ...{ method: 'PUT', path: `/v1/${path}`, id, summary, query: none, success: { status: 204 } },
    answer: async (machine) => {
      await act(machine);
      return NOTHING;
    },
  };
}

/** A row that reads something as JSON. */
function reading(
  path: string,
  summary: string,
  schema: z.ZodType,
  read: (machine: ControlledMachine) => unknown,
): Route {
  const id = path.replace(/^\w/, (letter) => `get${letter.toUpperCase()}`);
  return {
    ...{ method: 'GET', path: `/v1/${path}`, id, summary, query: none, success: { status: 200, schema } },
    answer: async (machine) => json(await read(machine)),
  };
}

/** What the rows of {@link deviceRoutes} call. */
export type DeviceControls = Pick<ControlledMachine, 'input' | 'resize'>;

/** The rows of one device that a machine and served devices have alike. */
export const deviceRoutes: readonly Route<DeviceControls>[] = [
  {
    ...{
      method: 'PUT',
      path: '/v1/devices/{slot}/input',
      id: 'input',
      query: none,
      body: schemas.inputSchema,
    },
    summary:
      'Sends the keyboard or pointer in a PCI slot a packet of events: all of it, or none if the guest is slow',
    success: { status: 204 },
    answer: async (machine, { slot, body }) => {
      const { events, function: number } = parse(schemas.inputSchema, body);
      await machine.input(slot, events, number);
      return NOTHING;
    },
  },
  {
    ...{
      method: 'PUT',
      path: '/v1/devices/{slot}/size',
      id: 'resize',
      query: none,
      body: schemas.sizeSchema,
    },
    summary: 'Gives a screen of the device in a PCI slot another size, which the guest may follow',
    success: { status: 204 },
    answer: async (machine, { slot, body }) => {
      const { head, ...size } = parse(schemas.sizeSchema, body);
      await machine.resize(slot, size, head);
      return NOTHING;
    },
  },
];

/** What the routes of one machine are made with. */
export interface RouteOptions {
  /** Of this program. */
  readonly version: string;
  /** Who stops the machine, for a person. */
  readonly by: string;
}

export const createRoutes = ({ version, by }: RouteOptions, input = new ConsoleInput()): readonly Route[] => [
  reading('info', 'What the machine is, and what it does now', schemas.infoSchema, (machine) => ({
    version,
    pid: process.pid,
    ...machine.info(),
  })),
  reading(
    'devices',
    'The assigned devices: BARs, exits by page, interrupts, counters',
    schemas.devicesSchema,
    (m) => m.inspectDevices(),
  ),
  {
    ...{ method: 'POST', path: '/v1/devices', id: 'attach', query: none, body: schemas.attachSchema },
    summary: 'Attaches a device, or a list of devices: all or none',
    success: { status: 201, schema: schemas.attachedSchema },
    answer: async (machine, { body }) =>
      json({ slots: [await machine.attach(body as DeviceConfigInput | DeviceConfigInput[])].flat() }),
  },
  {
    ...{ method: 'DELETE', path: '/v1/devices/{slot}', id: 'detach', query: schemas.queries.detach },
    summary: 'Detaches the device in a PCI slot, once the guest has released it, or by force',
    success: { status: 204 },
    answer: async (machine, { slot, query }) => {
      await machine.detach(slot, query);
      return NOTHING;
    },
  },
  {
    ...{
      method: 'PUT',
      path: '/v1/devices/{slot}/faults',
      id: 'inject',
      query: none,
      body: schemas.faultsSchema,
    },
    summary: 'Gives the device in a PCI slot faults, for tests; `none` takes all away',
    success: { status: 204 },
    answer: async (machine, { slot, body }) => {
      const { faults, function: number } = parse(schemas.faultsSchema, body);
      await machine.inject(slot, faults, number);
      return NOTHING;
    },
  },
  ...deviceRoutes,
  reading(
    'memory',
    'What is mapped: guest, process and I/O addresses, page sizes, costs',
    schemas.memorySchema,
    (m) => m.inspectMemory(),
  ),
  reading('counters', 'Exits, accesses and the devices’ counters', schemas.countersSchema, (m) =>
    m.counters(),
  ),
  {
    ...{ method: 'GET', path: '/v1/timeline', id: 'getTimeline', query: schemas.queries.timeline },
    summary: 'The record of VFIO’s operations, each with its cause; from event number `from` on',
    success: { status: 200, schema: schemas.timelineSchema },
    answer: async (machine, { query }) => {
      const { events, dropped } = await machine.timeline();
      return json({ events: events.slice(query.from as number | undefined), dropped });
    },
  },
  {
    ...{ method: 'GET', path: '/v1/console', id: 'getConsole', query: schemas.queries.console },
    summary:
      'The last 64 KiB of COM1’s output, from byte `from` on; with `follow`, also what comes, until the end',
    success: { status: 200, type: 'application/octet-stream' },
    answer: (machine, { query }) => ({
      kind: 'console',
      of: machine,
      from: query.from as number | undefined,
      isFollowing: query.follow === true,
    }),
  },
  {
    ...{ method: 'POST', path: '/v1/console', id: 'typeConsole', query: none, body: 'bytes' },
    summary: 'Types at COM1; the answer comes once the port has taken all, in the order of the requests',
    success: { status: 204 },
    answer: async (machine, { body, gone }) => {
      await input.type(machine, body as Uint8Array, gone);
      return NOTHING;
    },
  },
  {
    ...{ method: 'GET', path: '/v1/screenshot', id: 'getScreenshot', query: schemas.queries.screenshot },
    summary:
      'The picture of a display: of the device in `slot`, or the first; of its screen `head`, from 0 on',
    success: { status: 200, type: 'image/png' },
    answer: async (machine, { query }) => ({
      ...{ kind: 'bytes', type: 'image/png' },
      bytes: await machine.screenshot(query.slot as number | undefined, query.head as number | undefined),
    }),
  },
  {
    ...{ method: 'POST', path: '/v1/snapshot', id: 'snapshot', query: none, body: schemas.snapshotSchema },
    summary: 'Saves the machine to a folder, an absolute path; it goes on then',
    success: { status: 200, schema: schemas.savedSchema },
    answer: async (machine, { body }) => {
      const { folder, ...options } = parse(schemas.snapshotSchema, body);
      checkFolder(folder);
      return json(await machine.snapshot(folder, options));
    },
  },
  {
    ...{ method: 'POST', path: '/v1/move', id: 'move', query: none, body: schemas.moveSchema },
    summary:
      'Moves the machine; the answer comes when it runs there. It stays here if the request ends before that',
    success: { status: 200, schema: schemas.movedSchema },
    answer: async (machine, { body, gone }) => {
      const { address, ...options } = parse(schemas.moveSchema, body);
      return json(await machine.migrateTo(address, { ...options, signal: gone }));
    },
  },
  action('pause', 'Stops all vCPUs at an instruction boundary', (machine) => machine.pause()),
  action('resume', 'Lets a paused machine continue', (machine) => machine.resume()),
  action('reset', 'Resets the machine', (machine) => machine.reset()),
  action('power-button', 'Requests a shutdown of the guest (ACPI)', (machine) => machine.pressPowerButton()),
  action('stop', 'Ends the run', (machine) => machine.stop(by)),
];

/** JSON of a result: an address is hexadecimal, a size is a number. */
export function encodeJson(value: unknown): string {
  return JSON.stringify(value, (key, part: unknown) => {
    if (typeof part !== 'bigint') return part;
    return key === 'bytes' || key === 'memory' ? Number(part) : `0x${part.toString(16)}`;
  });
}
