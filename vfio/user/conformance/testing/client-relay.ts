/** Between a client and the server that is played to it: changes messages, so that a right client is a wrong one. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SysError } from '../../../../sys/error.js';
import { Scope } from '../../../../sys/scope.js';
import { connectUnix, UnixListener } from '../../../../sys/unix-socket.js';
import { Channel } from '../../channel.js';
import { MAX_ANSWER_FDS } from '../../protocol.js';
import type { VfioUserClientUnderTest } from '../client-play.js';
import { type Instead, type Kept, keep, send } from './kept.js';

/** What a wrong client does: breaks a rule. */
export interface ClientFault {
  /** Of the client's, before the server has it; undefined leaves it as it is. */
  readonly fromClient?: (message: Kept) => Instead | undefined;
  /** Of the server's, before the client has it. */
  readonly fromServer?: (message: Kept) => Instead | undefined;
}

/** Messages with this ID are the relay's own; the client does not hear their replies. */
export const OWN_ID = 0xeeee;
const TURN_MS = 1;

/** Starts a client, by `start`, whose messages to the server at `path` are changed. */
export function startWrongClient(
  path: string,
  fault: ClientFault,
  start: (path: string) => VfioUserClientUnderTest & AsyncDisposable,
): VfioUserClientUnderTest & AsyncDisposable {
  const scope = new Scope();
  const folder = mkdtempSync(join(tmpdir(), 'vfio-user-relay-'));
  scope.defer(() => rmSync(folder, { recursive: true, force: true }));
  const listener = scope.own(UnixListener.listen(join(folder, 'relay.sock')));
  let ends: readonly [Channel, Channel] | undefined;
  let isOver = false;
  const turn = () => {
    if (isOver) return;
    const fd = ends === undefined ? listener.accept() : undefined;
    if (fd !== undefined) {
      const near = scope.own(new Channel(fd, MAX_ANSWER_FDS));
      ends = [near, scope.own(new Channel(connectUnix(path, true), MAX_ANSWER_FDS))];
    }
    if (ends !== undefined && !pass(ends, fault)) {
      for (const end of ends) end[Symbol.dispose]();
      isOver = true;
    }
    setTimeout(turn, TURN_MS);
  };
  turn();
  const client = start(listener.path);
  return {
    ...client,
    // What the client has sent until then is passed on in the next turn.
    attached: Promise.resolve(client.attached).then(() => sleep(2 * TURN_MS)),
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      isOver = true;
      scope[Symbol.dispose]();
    },
  };
}

/** Passes on all that is there. @returns whether the connection goes on */
function pass([client, server]: readonly [Channel, Channel], fault: ClientFault): boolean {
  try {
    for (let message = client.receive(false); message !== undefined; message = client.receive(false))
      if (!say(server, keep(message), fault.fromClient)) return false;
    for (let message = server.receive(false); message !== undefined; message = server.receive(false)) {
      const kept = keep(message);
      if (kept.id !== OWN_ID && !say(client, kept, fault.fromServer)) return false;
    }
    return true;
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    return false;
  }
}

function say(to: Channel, message: Kept, change: ClientFault['fromClient']): boolean {
  const instead = change?.(message) ?? [{}];
  if (instead === 'hang up') return false;
  send(to, message, instead);
  return true;
}
