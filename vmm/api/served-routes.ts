/** What a page can do with served devices: send keyboard and pointer, and give screens another size. */
import type { InputEvent, InputKind } from '../../vfio/driver.js';
import type { ScreenSize } from '../display/screen-size.js';
import { type Answer, type DeviceControls, deviceRoutes, type Route } from './routes.js';
import * as schemas from './schemas.js';

/** A served device that takes events. */
export interface ServedInput {
  /** Its place among those that are served, from 0 on. */
  readonly slot: number;
  /** What it is. */
  readonly input: InputKind;
}

/** What the page of served devices calls; DeviceServer implements it. */
export interface ServedControls {
  readonly finished: Promise<unknown>;
  /** The devices that take events, in the order of their slots. */
  inputs(): Promise<readonly ServedInput[]>;
  input(events: readonly InputEvent[], slot: number): Promise<void>;
  resize(size: ScreenSize, head: number | undefined, slot: number): Promise<void>;
}

/** The same as the rows call it. */
type ServedDevices = DeviceControls & Pick<ServedControls, 'finished' | 'inputs'>;

export const servedDevices = (server: ServedControls): ServedDevices => ({
  finished: server.finished,
  inputs: () => server.inputs(),
  input: (slot, events) => server.input(events, slot),
  resize: (slot = 0, size, head) => server.resize(size, head, slot),
});

const NOTHING: Answer = { kind: 'nothing' };
const none = schemas.queries.none;

/** The rows of a machine's API that a page calls of served devices, and what they take events by. */
export const servedRoutes: readonly Route<ServedDevices>[] = [
  {
    ...{ method: 'GET', path: '/v1/info', id: 'getInfo', query: none, success: { status: 204 } },
    summary: 'That there is no machine',
    answer: () => NOTHING,
  },
  {
    ...{ method: 'GET', path: '/v1/inputs', id: 'getInputs', query: none },
    summary: 'The served devices that take events',
    success: { status: 200, schema: schemas.inputsSchema },
    answer: async (server) => ({ kind: 'json', value: await server.inputs() }),
  },
  ...deviceRoutes.map((route) => ({ ...route, slots: schemas.servedSlotSchema })),
];
