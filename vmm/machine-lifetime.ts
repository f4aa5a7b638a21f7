/** A machine from its start to its end, over resets. */

import { monotonicMs } from '../sys/monotonic.js';
import { onProcessExit } from '../sys/process-exit.js';
import { Calls } from './calls.js';
import type { DeviceConfig, VmConfig } from './config.js';
import { Screens } from './display/screens.js';
import { type HeardEvent, MachineRun, type RunCommand } from './machine-run.js';
import type { MachineInfo, MachineState, VmObserver } from './machine-types.js';
import { GuardedMemory } from './move/guarded-memory.js';
import type { MachineOrigin } from './move/incoming.js';
import type { RunReport } from './protocol.js';
import { SerialLinks, type SerialPortInfo } from './serial-links.js';
import { SerialOutput } from './serial-output.js';

/**
 * Runs a machine, again after each reset, and knows what it is at any time. What others ask of it goes through `calls`, `screens` and
 * `serial`, which outlive its runs. Main thread only.
 */
export class MachineLifetime {
  readonly calls = new Calls();
  readonly screens = new Screens((command) => this.send(command));
  readonly serial: SerialLinks;
  readonly output: SerialOutput;
  /** As VirtualMachine has it. */
  readonly finished: Promise<RunReport>;
  readonly #config: VmConfig;
  readonly #observer: VmObserver;
  readonly #startedAt = monotonicMs();
  #endedAt: number | undefined;
  #restarts = 0;
  #state: MachineState = 'starting';
  #devices: readonly DeviceConfig[];
  #stoppedBy: string | undefined;
  #failure: Error | undefined;
  /** Until the first run has it. */
  #origin: MachineOrigin | undefined;
  /** The last one that was begun. */
  #run: MachineRun | undefined;

  /** Starts the machine. */
  constructor(config: VmConfig, observer: VmObserver, origin: MachineOrigin | undefined) {
    this.#config = config;
    this.#observer = observer;
    this.#origin = origin;
    if (origin?.startsPaused) this.#state = 'paused';
    this.#devices = config.devices;
    this.serial = new SerialLinks(config.serial, (port) => this.send({ kind: 'serial-input', port }));
    this.output = new SerialOutput(config.serial, observer, () => this.send({ kind: 'flush' }));
    this.finished = this.#runToEnd();
    this.finished.catch(() => {}); // the error reaches those who await it; awaiting is optional
  }

  get state(): MachineState {
    return this.#state;
  }

  get devices(): readonly DeviceConfig[] {
    return this.#devices;
  }

  info(): MachineInfo {
    const state = this.#state;
    const devices = [...this.#devices];
    const uptimeMs = (this.#endedAt ?? monotonicMs()) - this.#startedAt;
    const outcome = state === 'ended' ? this.#run?.report?.outcome : undefined;
    const failure = state === 'ended' ? this.#failure?.message : undefined;
    const restarts = this.#restarts;
    return { state, uptimeMs, restarts, outcome, failure, config: { ...this.#config, devices } };
  }

  /** Sends a command; returns false if there is no machine to receive it. */
  send(command: RunCommand): boolean {
    return this.#run?.send(command) ?? false;
  }

  /** Ends the run, or the next one if there is none now. @param by the first one who asks is named */
  stop(by: string): void {
    this.#stoppedBy ??= by;
    this.send({ kind: 'stop', by });
  }

  /** The guest's memory of the present run. */
  memory(): GuardedMemory {
    return this.#run?.memory() ?? new GuardedMemory(undefined, () => false);
  }

  /** Runs machines until one ends without a reset: a reset closes the machine and starts a new one. */
  async #runToEnd(): Promise<RunReport> {
    using serial = this.serial;
    try {
      if (serial.needOpening) this.#announce(await serial.opened);
      for (;;) {
        const report = await this.#runOnce();
        if (report.outcome.kind !== 'reset' || !this.#config.reboot) return report;
        if (this.#stoppedBy !== undefined)
          return { ...report, outcome: { kind: 'stopped', by: this.#stoppedBy } };
        this.calls.restart();
        this.#restarts++;
        this.#observer.step?.('reset: restarting the machine', monotonicMs(), 'info');
      }
    } catch (error) {
      this.#failure = this.#run?.failure ?? (error as Error);
      throw error;
    } finally {
      this.#origin?.[Symbol.dispose]();
      this.#state = 'ended';
      this.#endedAt = monotonicMs();
      this.calls.end(this.#failure);
    }
  }

  #announce(ports: readonly SerialPortInfo[]): void {
    for (const { name, address } of ports)
      if (address !== undefined) this.#observer.step?.(`${name} is ${address}`, monotonicMs(), 'info');
  }

  async #runOnce(): Promise<RunReport> {
    const { serial } = this;
    const startsPaused = this.#state === 'paused';
    this.#state = 'starting';
    const config = { ...this.#config, devices: [...this.#devices] };
    using origin = this.#origin;
    this.#origin = undefined;
    const hear = (event: HeardEvent) => this.#hear(event);
    await using run = new MachineRun({ config, startsPaused, serial, origin, hear });
    this.#run = run;
    run.start();
    this.calls.connect((command) => run.send(command));
    // It was stopped while the serial ports' ends were opened.
    if (this.#stoppedBy !== undefined) this.send({ kind: 'stop', by: this.#stoppedBy });
    using _hook = onProcessExit(() => run.stop());
    await run.wait();
    this.calls.disconnect();
    this.output.end();
    try {
      return await run.finish();
    } finally {
      this.screens.end(run.failure);
    }
  }

  /** Returns what the observer does: a promise if it has not read the event yet. */
  #hear(event: HeardEvent): unknown {
    switch (event.kind) {
      case 'serial':
        return this.output.hear(event.port, event.bytes);
      case 'serial-pending':
        this.output.awaitLine(event.port);
        break;
      case 'serial-room':
        this.serial.pump(event.port);
        break;
      case 'step':
        return this.#observer.step?.(event.text, event.at, event.level);
      case 'phase':
        return this.#observer.phase?.(event.phase);
      case 'trace':
        return this.#observer.trace?.(event.channel, event.text);
      case 'state':
        this.#state = event.state;
        break;
      case 'reply':
        this.calls.hear(event);
        break;
      case 'devices':
        this.#devices = event.devices;
        this.screens.keep(event.devices);
        break;
      case 'plane':
      case 'displays':
      case 'stills':
        this.screens.hear(event);
        break;
    }
    return undefined;
  }
}
