/** Requests to the server that serves this page. Addresses are relative, so they have the page's token. */
import type { z } from 'zod';
import type {
  countersSchema,
  devicesSchema,
  errorSchema,
  infoSchema,
  inputsSchema,
  memorySchema,
  timelineSchema,
} from '../../api/schemas.js';

export type Info = z.output<typeof infoSchema>;
export type Device = z.output<typeof devicesSchema>[number];
export type MemoryRange = z.output<typeof memorySchema>[number];
export type Counters = z.output<typeof countersSchema>;
export type TimelinePart = z.output<typeof timelineSchema>;

/** What can be read of the machine, by the last part of its path in the API. */
export interface Readings {
  readonly info: Info;
  readonly devices: readonly Device[];
  readonly memory: readonly MemoryRange[];
  readonly counters: Counters;
  readonly timeline: TimelinePart;
  /** Of served devices. */
  readonly inputs: z.output<typeof inputsSchema>;
}

/** Names this page: the server keeps what it has sent to each. */
const CLIENT = Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join('');

/** An answer that is an error. */
export class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

async function answered(request: Promise<Response>): Promise<Response> {
  const reply = await request;
  if (reply.ok) return reply;
  const isJson = reply.headers.get('content-type') === 'application/json';
  const text = isJson
    ? ((await reply.json()) as z.output<typeof errorSchema>).error.message
    : await reply.text();
  throw new Refusal(reply.status, text);
}

/** Asks for pictures, or says that the page is done. @throws TypeError if the server is gone; Refusal */
export const ask = (path: 'frame' | 'done'): Promise<Response> =>
  answered(fetch(`${path}?client=${CLIENT}`, { cache: 'no-store' }));

/** Reads something by the API; undefined if the server has only pictures. @throws as {@link ask} */
export async function read<K extends keyof Readings>(name: K, query = ''): Promise<Readings[K] | undefined> {
  const reply = await answered(fetch(`v1/${name}${query}`, { cache: 'no-store' }));
  return reply.status === 204 ? undefined : ((await reply.json()) as Readings[K]);
}

/** As {@link read}; also undefined if the machine does not tell: it restarts, or has ended. @throws TypeError if the server is gone */
export async function latest<K extends keyof Readings>(
  name: K,
  query = '',
): Promise<Readings[K] | undefined> {
  try {
    return await read(name, query);
  } catch (error) {
    if (error instanceof Refusal) return undefined;
    throw error;
  }
}

/** Calls the API. @throws as {@link ask} */
export const call = (method: 'PUT' | 'POST' | 'DELETE', path: string, body?: object): Promise<Response> =>
  answered(
    fetch(`v1/${path}`, {
      method,
      ...(body && { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }),
    }),
  );

/** What to say of an error: fetch throws a TypeError if nobody answers. */
export const textOf = (error: unknown): string =>
  error instanceof TypeError ? 'The guest has ended, or tsvisor was stopped' : (error as Error).message;
