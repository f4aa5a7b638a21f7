import { readSync, writeSync } from 'node:fs';
import { isErrno } from '../../sys/error.js';
import type { EventContext } from '../../sys/event-task.js';
import { Scope } from '../../sys/scope.js';
import { ChannelReader, ChannelWriter } from './byte-channel.js';
import type { HostFile } from './host-end.js';
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
  /** A duplicate for waiting until the file is writable, because an fd has one watch. */
  readonly #writableFd: number;
  #hasPeer = false;
  #readable: Disposable | undefined;
  #writable: Disposable | undefined;

  /** Takes ownership of the file. @param notify notifies the registers of a change, and reports the text to the user */
  constructor(file: HostFile, buffers: LineBuffers, context: EventContext, notify: (text?: string) => void) {
    using scope = new Scope();
    this.#file = scope.own(file);
    this.#writableFd = scope.own(file.fd.duplicate()).number;
    this.#context = context;
    this.#notify = notify;
    this.#sent = new ChannelReader(buffers.sent, () => notify());
    this.#received = new ChannelWriter(buffers.received, () => notify());
    this.#carrier = new Int32Array(buffers.carrier);
    const { arrivals } = file;
    if (arrivals !== undefined) scope.own(context.watch(arrivals.number, () => this.#arrive()));
    if (file.hasPeer) this.#setPeer(true);
    this.pump();
    this.#scope = scope.move();
  }

  /** Called when the registers have written bytes, or made room for some. */
  pump(): void {
    this.#send();
    if (this.#hasPeer && this.#readable === undefined && this.#received.room() > 0) this.#listen();
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
      return writeSync(this.#file.fd.number, bytes);
    } catch (error) {
      if (isErrno(error, 'EAGAIN'))
        this.#writable ??= this.#context.watchWritable(this.#writableFd, () => this.#send());
      else this.#hangUp();
      return 0;
    }
  }

  #listen(): void {
    this.#readable = this.#context.watch(this.#file.fd.number, () => this.#receive());
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
      return readSync(this.#file.fd.number, this.#buffer, 0, Math.min(room, this.#buffer.length), null);
    } catch (error) {
      return isErrno(error, 'EAGAIN') ? -1 : 0;
    }
  }

  #arrive(): void {
    try {
      readSync(this.#file.arrivals?.number ?? -1, this.#buffer);
    } catch {
      return; // no peer has connected
    }
    this.#setPeer(true);
    this.pump();
  }

  #hangUp(): void {
    this.#stopListening();
    this.#stopWaiting();
    this.#setPeer(false);
    this.#send();
  }

  #setPeer(isThere: boolean): void {
    if (isThere === this.#hasPeer) return;
    this.#hasPeer = isThere;
    Atomics.store(this.#carrier, 0, isThere ? 1 : 0);
    const { address, arrivals } = this.#file;
    if (arrivals !== undefined) this.#notify(isThere ? `${address} was opened` : `${address} was closed`);
    else this.#notify(isThere ? undefined : `${address}: the peer has disconnected`);
  }

  #stopListening(): void {
    this.#readable?.[Symbol.dispose]();
    this.#readable = undefined;
  }

  #stopWaiting(): void {
    this.#writable?.[Symbol.dispose]();
    this.#writable = undefined;
  }

  [Symbol.dispose](): void {
    this.#stopListening();
    this.#stopWaiting();
    this.#scope[Symbol.dispose]();
  }
}
