import { readSync, writeSync } from 'node:fs';
import { isErrno } from '../../sys/error.js';
import type { EventContext } from '../../sys/event-task.js';
import { Scope } from '../../sys/scope.js';
import { ChannelReader, ChannelWriter } from './byte-channel.js';
import type { HostFile } from './host-file.js';
import type { LineBuffers } from './messages.js';

/**
 * Moves bytes between a port's channels and the host's file. Bytes that the receiver cannot take stay in place, so
 * memory is bounded and nothing is lost while a peer is connected; without a peer, the guest's output is dropped. Event
 * thread only.
 */
export class HostLine implements Disposable {
  readonly #file: HostFile;
  readonly #sent: ChannelReader;
  readonly #received: ChannelWriter;
  readonly #carrier: Int32Array;
  readonly #context: EventContext;
  readonly #notify: (text?: string) => void;
  readonly #buffer = new Uint8Array(4096);
  readonly #scope: Scope;
  #hasPeer = false;
  #arrivals: Disposable | undefined;
  #readable: Disposable | undefined;
  #writable: Disposable | undefined;

  /** Takes ownership of the file. @param notify notifies the registers of a change, and reports the text to the user */
  constructor(file: HostFile, buffers: LineBuffers, context: EventContext, notify: (text?: string) => void) {
    using scope = new Scope();
    this.#file = scope.own(file);
    this.#context = context;
    this.#notify = notify;
    this.#sent = new ChannelReader(buffers.sent, () => notify());
    this.#received = new ChannelWriter(buffers.received, () => notify());
    this.#carrier = new Int32Array(buffers.carrier);
    scope.defer(() => this.#stopAll());
    // One that an earlier line has left here is still connected, unless the first read finds that it is not.
    if (file.isOpen || Atomics.load(this.#carrier, 0) === 1) this.#hasPeer = true;
    Atomics.store(this.#carrier, 0, this.#hasPeer ? 1 : 0);
    if (this.#hasPeer) notify();
    this.#awaitArrivals();
    this.pump();
    this.#scope = scope.move();
  }

  /** Called when the registers have written bytes, or made room for some. */
  pump(): void {
    this.#send();
    const isToListen = this.#hasPeer && !this.#file.isWriteOnly && this.#readable === undefined;
    if (isToListen && this.#received.room() > 0) this.#listen();
  }

  #send(): void {
    for (let bytes = this.#sent.peek(); bytes.length > 0; bytes = this.#sent.peek()) {
      const count = this.#hasPeer ? this.#write(bytes) : bytes.length;
      if (count === 0 && this.#hasPeer) return;
      this.#sent.take(count);
    }
    this.#stopWaiting();
  }

  /** Returns the bytes written; 0 if the file is not writable, or the peer has just disconnected. */
  #write(bytes: Uint8Array): number {
    try {
      return writeSync(this.#file.fd, bytes);
    } catch (error) {
      if (isErrno(error, 'EAGAIN'))
        this.#writable ??= this.#context.watchWritable(this.#file.writableFd, () => this.#send());
      else this.#hangUp((error as NodeJS.ErrnoException).code);
      return 0;
    }
  }

  #listen(): void {
    this.#readable = this.#context.watch(this.#file.fd, () => this.#receive());
  }

  #receive(): void {
    const room = this.#received.room();
    if (room === 0) {
      // The registers wake this again when the guest has read some bytes.
      this.#stopListening();
      return;
    }
    const count = this.#read(room);
    if (count === 0) this.#hangUp();
    else if (count > 0) this.#received.write(this.#buffer.subarray(0, count));
  }

  /** Returns the bytes read; 0 if the peer has disconnected, -1 if nothing is readable. */
  #read(room: number): number {
    try {
      return readSync(this.#file.fd, this.#buffer, 0, Math.min(room, this.#buffer.length), null);
    } catch (error) {
      return isErrno(error, 'EAGAIN') ? -1 : 0;
    }
  }

  #awaitArrivals(): void {
    const { arrivals, hasOnePeer } = this.#file;
    if (arrivals < 0 || this.#arrivals !== undefined || (hasOnePeer && this.#hasPeer)) return;
    this.#arrivals = this.#context.watch(arrivals, () => this.#arrive());
  }

  #arrive(): void {
    try {
      if (!this.#file.arrive()) return;
    } catch (error) {
      this.#notify((error as Error).message);
      return;
    }
    if (this.#file.hasOnePeer) {
      this.#arrivals?.[Symbol.dispose]();
      this.#arrivals = undefined;
    }
    if (!this.#hasPeer) this.#setPeer(true, this.#file.arrived);
    this.pump();
  }

  #hangUp(code?: string): void {
    if (!this.#hasPeer) return;
    this.#stopListening();
    this.#stopWaiting();
    this.#file.leave();
    this.#setPeer(false, this.#file.left(code));
    this.#awaitArrivals();
    this.#send();
  }

  #setPeer(isThere: boolean, text: string | undefined): void {
    this.#hasPeer = isThere;
    Atomics.store(this.#carrier, 0, isThere ? 1 : 0);
    this.#notify(text);
  }

  #stopListening(): void {
    this.#readable?.[Symbol.dispose]();
    this.#readable = undefined;
  }

  #stopWaiting(): void {
    this.#writable?.[Symbol.dispose]();
    this.#writable = undefined;
  }

  #stopAll(): void {
    this.#stopListening();
    this.#stopWaiting();
    this.#arrivals?.[Symbol.dispose]();
  }

  /** Sends what waits, as far as that does not block. */
  [Symbol.dispose](): void {
    this.#send();
    this.#scope[Symbol.dispose]();
  }
}
