import { Run } from '../../kvm/uapi-vcpu.js';
import type { Vcpu } from '../../kvm/vcpu.js';
import type { EventTask, EventThread } from '../../sys/event-task.js';
import { EventThreadClient, type EventThreadWorker, startEventThread } from '../../sys/event-thread.js';
import { createInboxControl, Inbox } from '../../sys/inbox.js';
import { installKickSignal } from '../../sys/kick.js';
import { onProcessExit } from '../../sys/process-exit.js';
import { disposable } from '../../sys/scope.js';

/**
 * An event thread for a hypervisor that runs its vCPU in the thread that also owns the devices. Messages from event
 * tasks, and what `Signals` watches, wait until that thread calls {@link poll}, which it does after each exit.
 */
export class PolledEventThread implements EventThread, AsyncDisposable {
  readonly #inbox: Inbox;
  readonly #worker: EventThreadWorker;
  readonly #client: EventThreadClient;
  readonly #exitHook: Disposable;

  private constructor(inbox: Inbox, worker: EventThreadWorker) {
    this.#inbox = inbox;
    this.#worker = worker;
    this.#client = new EventThreadClient(worker.link, inbox);
    // A thread that sits in epoll_wait keeps the process from exiting.
    this.#exitHook = onProcessExit(() => worker.stop());
  }

  /**
   * Starts the thread, and installs the kick signal for the process. Main thread, or a worker that outlives it.
   * @throws Error if the host refuses another thread
   */
  static async start(): Promise<PolledEventThread> {
    installKickSignal();
    const control = createInboxControl();
    const worker = startEventThread(control);
    await Promise.race([new Promise((resolve) => worker.worker.once('online', resolve)), worker.ended]);
    worker.ended.catch(() => {}); // from here on, calls report it
    return new PolledEventThread(new Inbox(control), worker);
  }

  run(module: URL, data: unknown): EventTask {
    return this.#client.run(module, data);
  }

  /** Delivers what event tasks have sent. Costs nanoseconds if that is nothing. */
  poll(): void {
    if (this.#inbox.hasNews) this.#inbox.drain();
  }

  /**
   * Until disposed, a message kicks this thread out of `vcpu.run()`: the exit is then `interrupted`, and
   * `vcpu.page.setImmediateExit(false)` is due before the next {@link poll}.
   */
  interruptRun(vcpu: Vcpu): Disposable {
    this.#inbox.enterRun(vcpu.handle.address + Run.offsets.immediate_exit);
    return disposable(() => this.#inbox.leaveRun());
  }

  /** Ends the thread; every task is stopped. Memory that tasks used may be unmapped once this resolves. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#exitHook[Symbol.dispose]();
    this.#worker.stop();
    await this.#worker.ended.catch(() => {});
  }
}
