/** What a page can do with served devices: send keyboard and pointer, and give screens another size. */

import type { InputEvent, InputKind } from '../../vfio/driver.js';
import { parse } from '../config.js';
import type { ScreenSize } from '../display/screen-size.js';
import type { Answer, Route } from './routes.js';
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

const NOTHING: Answer = { kind: 'nothing' };
const none = schemas.queries.none;

/** The paths and bodies are those of a machine's API, so that a page calls either in the same way. */
export const servedRoutes: readonly Route<ServedControls>[] = [
  {
    ...{ method: 'GET', path: '/v1/inputs', id: 'getInputs', query: none },
    summary: 'The served devices that take events',
    success: { status: 200, schema: schemas.inputsSchema },
    answer: async (server) => ({ kind: 'json', value: await server.inputs() }),
  },
  {
    ...{
      method: 'PUT',
      path: '/v1/devices/{slot}/input',
      id: 'input',
      query: none,
      body: schemas.inputSchema,
    },
    summary: 'Sends a served keyboard or pointer a packet of events',
    slots: schemas.servedSlotSchema,
    success: { status: 204 },
    answer: async (server, { slot, body }) => {
      await server.input(parse(schemas.inputSchema, body).events, slot);
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
    summary: 'Gives a screen of a served device another size',
    slots: schemas.servedSlotSchema,
    success: { status: 204 },
    answer: async (server, { slot, body }) => {
      const { head, ...size } = parse(schemas.sizeSchema, body);
      await server.resize(size, head, slot);
      return NOTHING;
    },
  },
];
