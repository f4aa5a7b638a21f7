import { Run } from '../../kvm/uapi-vcpu.js';
import type { Vcpu } from '../../kvm/vcpu.js';
import type { EventTask, EventThread } from '../../sys/event-task.js';
import { EventThreadClient, type EventThreadWorker, startEventThread } from '../../sys/event-thread.js';
import { parkIfExiting } from '../../sys/exit-board.js';
import { createInboxControl, Inbox } from '../../sys/inbox.js';
import { installKickSignal } from '../../sys/kick.js';
import { onProcessExit } from '../../sys/process-exit.js';
import { disposable } from '../../sys/scope.js';

/**
 * An event thread for a hypervisor that runs its vCPU in the thread that owns the devices. Messages of event tasks, and
 * with them the events of `Signals`, are queued until that thread calls {@link poll}: after each exit.
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
    // A thread blocked in epoll_wait keeps the process from exiting.
    this.#exitHook = onProcessExit(() => worker.stop());
  }

  /**
   * Starts the thread, and installs the process's handler of the kick signal. Call it in the main thread, or in a worker
   * that outlives the event thread.
   * @throws SysError EAGAIN if the host refuses another thread
   */
  static async start(): Promise<PolledEventThread> {
    installKickSignal();
    const control = createInboxControl();
    const worker = startEventThread(control);
    await Promise.race([new Promise((resolve) => worker.worker.once('online', resolve)), worker.ended]);
    worker.ended.catch(() => {}); // from now on, calls report its failure
    return new PolledEventThread(new Inbox(control), worker);
  }

  run(module: URL, data: unknown, thread?: 'shared' | 'own'): EventTask {
    return this.#client.run(module, data, thread);
  }

  /**
   * Delivers the queued messages. Takes nanoseconds if there are none. In a worker it does not return once the main
   * thread exits, which waits for this thread to stop calling KVM_RUN.
   */
  poll(): void {
    parkIfExiting();
    if (this.#inbox.hasNews) this.#inbox.drain();
  }

  /**
   * Until disposed, a message kicks this thread out of `vcpu.run()`, which then returns an `interrupted` exit, and so
   * does the end of the process. Call `vcpu.page.setImmediateExit(false)` before the next {@link poll}. A thread may
   * run several vCPUs in turn, each with an interruptRun of its own: a message interrupts the next run of each.
   * @throws RangeError for the ninth vCPU at once
   */
  interruptRun(vcpu: Vcpu): Disposable {
    const address = vcpu.handle.address + Run.offsets.immediate_exit;
    this.#inbox.enterRun(address);
    return disposable(() => this.#inbox.leaveRun(address));
  }

  /** Stops every task and ends the thread. Memory that tasks use has to stay mapped until this resolves. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#exitHook[Symbol.dispose]();
    this.#worker.stop();
    await this.#worker.ended.catch(() => {});
  }
}
