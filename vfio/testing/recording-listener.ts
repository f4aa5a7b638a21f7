import type { NotifierBlock } from '../core/notifier.js';

/** A listener that records its events in order. */
export class RecordingListener<D> implements NotifierBlock<D> {
  readonly name: string;
  /** Data of each event. */
  readonly heard: D[] = [];
  /** What it does besides recording; may be a generator function of Steps. */
  readonly #react: ((event: number, data: D) => void) | undefined;

  constructor(name: string, react?: (event: number, data: D) => void) {
    this.name = name;
    this.#react = react;
  }

  call(event: number, data: D): unknown {
    this.heard.push(data);
    return this.#react?.(event, data);
  }
}
