import { isErrno } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import type { PausedQueues, QueuePositions } from './messages.js';
import { VirtioFunction, type VirtioFunctionParts } from './pci-function.js';
import type { QueueSetup } from './queue-setup.js';
import { RemoteQueue } from './remote-queue.js';
import { type QueueEnd, RemoteTurn } from './remote-turn.js';
import { type ChainDirection, ringBytes } from './split-queue.js';
import type { TransportState } from './transport-state.js';
import type { TurnCommand, TurnCounter, TurnNotice } from './turn-messages.js';

/**
 * A function whose queues its registers' thread serves, in turns that its doorbell task asks for: for devices that move little, or whose
 * contents that thread hands out. Its queues, and what {@link access} moves, may lie in memory of this process or of another. Machine
 * thread only.
 */
export abstract class TurnFunction<Counter extends string> extends VirtioFunction<
  TransportState<Counter | TurnCounter>,
  TurnCommand
> {
  readonly #task: EventTask;
  readonly #turn: RemoteTurn;
  readonly #queues = new Map<number, RemoteQueue>();

  /** @param parts whose state is the view of the second thread */
  constructor(parts: VirtioFunctionParts<TransportState<Counter | TurnCounter>>) {
    super(parts);
    this.#task = parts.task;
    this.#turn = new RemoteTurn(this.remoteMemory.access, `the queues of ${parts.name}`);
    parts.task.receive = (message) => {
      if ((message as TurnNotice).kind === 'turn') this.#takeTurn();
    };
  }

  /** What the device does with the memory of a queue's chains. */
  protected abstract directionOf(queue: number): ChainDirection;

  /** Serves a queue, during a turn. Returns whether it has more to do in another one. */
  protected abstract serve(queue: RemoteQueue): boolean;

  /** Accesses the guest's memory. In {@link serve} only. @throws SysError if the range is not mapped, or its owner refuses */
  protected get access(): RemoteTurn['access'] {
    return this.#turn.access;
  }

  /** Whether a turn has taken its time: what is left is for the next one. */
  protected get isTurnOver(): boolean {
    return this.#turn.isOver;
  }

  /** Does something with a queue now, if the driver has set it up and the device may access memory. */
  protected withQueue(index: number, act: (queue: RemoteQueue) => void): void {
    const queue = this.#queues.get(index);
    if (queue === undefined || !this.remoteMemory.isMaster()) return;
    this.#turn.begin();
    this.#serve(queue, () => {
      act(queue);
      return false;
    });
  }

  /** Shows the driver the chains that have been pushed. */
  protected publish(queue: RemoteQueue): void {
    if (queue.publish()) this.call({ kind: 'used', queue: queue.index });
  }

  protected override startQueues(queues: readonly QueueSetup[], positions?: QueuePositions): void {
    for (const setup of queues) {
      const problem = placeProblem(setup);
      if (problem !== undefined) {
        this.#giveUp({ misuse: `queue ${setup.index}: ${problem}` });
        return;
      }
      const position = positions?.get(setup.index) ?? 0;
      const direction = this.directionOf(setup.index);
      this.#queues.set(setup.index, new RemoteQueue(setup, this.#turn.access, direction, position));
    }
    this.call({ kind: 'start', queues: [...this.#queues.keys()] });
  }

  /** Each turn returns what it has begun, so nothing is under way between them. */
  protected override pauseQueues(): PausedQueues {
    const { pending } = this.#task.call({ kind: 'pause' } satisfies TurnCommand) as PausedQueues;
    const positions = new Map([...this.#queues].map(([index, { position }]) => [index, position]));
    this.#queues.clear();
    return { positions, pending };
  }

  protected override stopQueues(): void {
    super.stopQueues();
    this.#queues.clear();
  }

  #takeTurn(): void {
    this.#turn.begin();
    let hasMore = false;
    if (this.remoteMemory.isMaster())
      for (const queue of [...this.#queues.values()])
        hasMore = this.#serve(queue, () => this.serve(queue)) || hasMore;
    this.call({ kind: 'endTurn', hasMore });
  }

  #serve(queue: RemoteQueue, serve: () => boolean): boolean {
    // One before it may have made the device need a reset.
    if (!this.#queues.has(queue.index)) return false;
    return this.#turn.serve(queue, serve, (end) => this.#giveUp(end, queue.index));
  }

  /** 2.1.2: the device needs a reset, and no queue is served until then. */
  #giveUp(end: QueueEnd, index?: number): void {
    this.#queues.clear();
    this.state.demandReset();
    this.call({ kind: 'config' });
    const where = index === undefined ? '' : `queue ${index}: `;
    if ('misuse' in end) this.misuse(`${where}${end.misuse}`);
    else if (isErrno(end.error, 'EFAULT') || isErrno(end.error, 'EPERM'))
      this.misuse(`${where}it is not in memory: ${end.error.message}`);
    else this.tell('queue stopped', `its queues have stopped until a reset: ${end.error.message}`);
  }
}

/** What is wrong with a queue's place: an address that a number cannot hold is no memory. */
function placeProblem({ size, desc, driver, device }: QueueSetup): string | undefined {
  const { descBytes, availBytes, usedBytes } = ringBytes(size);
  const ends = [desc + descBytes, driver + availBytes, device + usedBytes];
  return ends.every((end) => end <= Number.MAX_SAFE_INTEGER) ? undefined : 'a ring is not in memory';
}
