/** For tests: guest memory that another process has, and turns of the queues in it. */
import type { InlineEventThread } from '../../../sys/inline-event-thread.js';
import { type GuestMap, maps } from './guest.js';

export const remote = (map: GuestMap): GuestMap => ({ ...map, isRemote: true });
export const allRemote: readonly GuestMap[] = Object.values(maps).map(remote);

/** `main` in two maps, of which the first has so many bytes. */
export function splitMain(bytes: number): readonly [front: GuestMap, back: GuestMap] {
  const { iova, at, bytes: all } = maps.main;
  const back = { ...maps.main, iova: iova + bytes, at: at + bytes, bytes: all - bytes };
  return [{ ...maps.main, bytes }, back];
}

const nap = new Int32Array(new SharedArrayBuffer(4));

/** Lets everything happen that will: turns of remote queues follow each other after a pause. */
export function settleTurns(thread: InlineEventThread): void {
  for (let i = 0; i < 6; i++) {
    thread.pump();
    Atomics.wait(nap, 0, 0, 2);
  }
}
