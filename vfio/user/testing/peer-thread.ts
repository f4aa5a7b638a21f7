/** A server in a thread of its own, for tests of the client, which blocks while it waits for an answer. */
import { parentPort, workerData } from 'node:worker_threads';
import { isErrno } from '../../../sys/error.js';
import { poll } from '../../../sys/libc.js';
import { diceOf } from '../../../sys/testing/random.js';
import { UnixListener, unixSocketPair } from '../../../sys/unix-socket.js';
import { Channel } from '../channel.js';
import { encodeMessage } from '../message.js';
import { VfioUserServer } from '../server/server.js';
import { Session } from '../server/session.js';
import { hostCard } from './card.js';

/** What the thread is started with. */
export interface PeerData {
  readonly path: string;
  /** Int32 [0]: 1 asks it to end. [1]: messages passed on. [2]: of these, changed. */
  readonly control: SharedArrayBuffer;
  /** Changes bytes of answers, by this seed; an honest server if absent. */
  readonly seed?: number;
  /** Of how many answers one is changed. */
  readonly oneIn?: number;
}

const { path, control, seed, oneIn = 20 } = workerData as PeerData;
const words = new Int32Array(control);
const STOP = 0;
const MESSAGES = 1;
const CHANGED = 2;
const POLLIN = 1;

function serveHonestly(): void {
  using host = hostCard();
  using server = new VfioUserServer({ path, open: () => host.open(), trustsClient: true });
  parentPort?.postMessage('ready');
  while (Atomics.load(words, STOP) === 0) server.step();
}

/** A real session behind a wire on which answers are changed now and then. */
function serveChanged(dice: (below: number) => number): void {
  using host = hostCard();
  using listener = UnixListener.listen(path);
  parentPort?.postMessage('ready');
  const request = new Uint8Array(8);
  new DataView(request.buffer).setInt32(0, listener.fd.number, true);
  new DataView(request.buffer).setInt16(4, POLLIN, true);
  while (Atomics.load(words, STOP) === 0) {
    if (poll(request, 1, 20) <= 0) continue;
    const fd = listener.accept();
    if (fd === undefined) continue;
    using client = new Channel(fd);
    client.setTimeouts(20, 200);
    const [inner, outer] = unixSocketPair('peer');
    using wire = new Channel(inner);
    using session = new Session(new Channel(outer), host.open(), {
      trustsClient: true,
      waitMs: 20,
      replyMs: 20,
    });
    try {
      relay(client, wire, session, dice);
    } catch (error) {
      if (!isErrno(error, 'ECONNRESET') && !isErrno(error, 'EPROTO') && !isErrno(error, 'ETIMEDOUT'))
        throw error;
    }
  }
}

function relay(client: Channel, wire: Channel, session: Session, dice: (below: number) => number): void {
  while (Atomics.load(words, STOP) === 0) {
    const question = client.receive();
    if (question === undefined) continue;
    wire.send(
      encodeMessage(question, question.payload),
      question.fds.map(({ number }) => number),
    );
    while (session.step(false));
    for (let answer = wire.receive(false); answer !== undefined; answer = wire.receive(false)) {
      const bytes = encodeMessage(answer, answer.payload);
      Atomics.add(words, MESSAGES, 1);
      let fds = answer.fds.map(({ number }) => number);
      if (dice(oneIn) === 0) {
        Atomics.add(words, CHANGED, 1);
        for (let count = dice(3); count >= 0; count--) bytes[dice(bytes.length)] = dice(256);
        if (dice(8) === 0) fds = fds.concat(fds).slice(0, dice(4));
        if (dice(8) === 0) return; // hangs up in the middle
      }
      client.send(bytes, fds);
    }
  }
}

if (seed === undefined) serveHonestly();
else serveChanged(diceOf(seed));
process.exit(0);
