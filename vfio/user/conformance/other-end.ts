/** Whether a peer still has a descriptor that it was sent. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Fd } from '../../../sys/fd.js';
import { poll } from '../../../sys/libc.js';
import type { ClientPlay } from './client-play.js';

const POLLHUP = 16;
const PAUSE_MS = 5;

/** @param near the end of a socket pair, whose other end the client was sent; nobody else has that any more */
export async function isOpenElsewhere(near: Fd, play: ClientPlay): Promise<boolean> {
  const deadline = performance.now() + play.answerMs;
  while (performance.now() < deadline) {
    if (isHungUp(near)) return false;
    await sleep(PAUSE_MS);
  }
  return true;
}

function isHungUp({ number }: Fd): boolean {
  const request = new Uint8Array(8);
  const view = new DataView(request.buffer);
  view.setInt32(0, number, true);
  poll(request, 1, 0);
  return (view.getInt16(6, true) & POLLHUP) !== 0;
}
