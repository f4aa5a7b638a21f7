/** What a person does at a picture, as events of the guest's keyboard and pointer (virtio-input). */
import { KEYS } from './keys.js';
import { call, type Device, textOf } from './server.js';

// linux/input-event-codes.h
const EV_KEY = 1;
const EV_REL = 2;
const EV_ABS = 3;
const REL_X = 0;
const REL_Y = 1;
const REL_HWHEEL = 6;
const REL_WHEEL = 8;
const ABS_X = 0;
const ABS_Y = 1;
const BTN_LEFT = 0x110;
/** By `PointerEvent.button`: left, middle, right, back, forward. */
const BUTTONS = [BTN_LEFT, BTN_LEFT + 2, BTN_LEFT + 1, BTN_LEFT + 3, BTN_LEFT + 4];
/** Of a tablet's axes. */
const ABS_MAX_VALUE = 0x7fff;

type Kind = NonNullable<Device['input']>;
/** Where a device is; a served one is no function of a slot. */
type Place = Pick<Device, 'slot'> & { readonly function?: number | undefined };

interface InputEvent {
  readonly type: number;
  readonly code: number;
  readonly value: number;
}
interface Packet {
  readonly kind: Kind;
  readonly events: readonly InputEvent[];
  /** The next one takes its place while it waits. */
  readonly isMove: boolean;
}

/** Keyboard and pointer of the machine: the first device of each kind gets the events. */
export class GuestInput {
  readonly #changed: () => void;
  readonly #devices = new Map<Kind, Place>();
  readonly #pressed = new Map<Kind, Set<number>>();
  /** In the order in which they go out, one request at a time. */
  readonly #waiting: Packet[] = [];
  #isSending = false;
  /** Why the last packet was refused. */
  error = '';

  /** @param changed called when {@link error} has changed */
  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** The machine's devices, whenever they are read, or the served ones. */
  update(devices: readonly (Place & Pick<Device, 'input'>)[]): void {
    this.#devices.clear();
    for (const { input, slot, function: number } of devices)
      if (input !== undefined && !this.#devices.has(input))
        this.#devices.set(input, { slot, function: number });
  }

  /** Whether there is anything that takes events. */
  get isThere(): boolean {
    return this.#devices.size > 0;
  }

  /** Follows a picture's keyboard and pointer, until the result is called. */
  follow(canvas: HTMLCanvasElement): () => void {
    const until = new AbortController();
    const on = <K extends keyof HTMLElementEventMap>(
      name: K,
      hear: (event: HTMLElementEventMap[K]) => void,
    ): void => {
      const heard = (event: HTMLElementEventMap[K]) => {
        if (this.isThere) hear(event);
      };
      canvas.addEventListener(name, heard, { signal: until.signal, passive: false });
    };
    on('keydown', (event) => this.#key(canvas, event, true));
    on('keyup', (event) => this.#key(canvas, event, false));
    on('blur', () => this.#releaseAll());
    on('contextmenu', (event) => event.preventDefault());
    on('pointermove', (event) => this.#point(canvas, event));
    on('pointerdown', (event) => {
      canvas.focus();
      canvas.setPointerCapture(event.pointerId);
      this.#point(canvas, event);
      this.#button(event.button, true);
      event.preventDefault();
    });
    on('pointerup', (event) => this.#button(event.button, false));
    on('wheel', (event) => {
      this.#turn(REL_WHEEL, -Math.sign(event.deltaY));
      this.#turn(REL_HWHEEL, Math.sign(event.deltaX));
      event.preventDefault();
    });
    return () => {
      this.#releaseAll();
      until.abort();
    };
  }

  #key(canvas: HTMLCanvasElement, event: KeyboardEvent, isDown: boolean): void {
    const code = KEYS.get(event.code);
    if (isDown && event.ctrlKey && event.altKey && event.code === 'KeyG')
      canvas.blur(); // as QEMU's windows have it
    else if (code === undefined) return;
    else if (!event.repeat) this.#press('keyboard', code, isDown); // the guest repeats by itself
    event.preventDefault();
  }

  /** The tablet, if there is one; else the mouse. */
  get #pointer(): Kind {
    return this.#devices.has('tablet') ? 'tablet' : 'mouse';
  }

  #button(button: number, isDown: boolean): void {
    const code = BUTTONS[button];
    if (code !== undefined) this.#press(this.#pointer, code, isDown);
  }

  #point(canvas: HTMLCanvasElement, { clientX, clientY, movementX, movementY }: PointerEvent): void {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const [across, down] = [canvas.width / width, canvas.height / height];
    if (this.#pointer === 'mouse') {
      const moved = { [REL_X]: Math.round(movementX * across), [REL_Y]: Math.round(movementY * down) };
      const events = Object.entries(moved).map(([code, value]) => ({
        type: EV_REL,
        code: Number(code),
        value,
      }));
      this.#send(
        'mouse',
        events.filter(({ value }) => value !== 0),
      );
      return;
    }
    const place = (at: number, of: number) => Math.round(Math.min(Math.max(at / of, 0), 1) * ABS_MAX_VALUE);
    this.#send(
      'tablet',
      [
        { type: EV_ABS, code: ABS_X, value: place(clientX - left, width) },
        { type: EV_ABS, code: ABS_Y, value: place(clientY - top, height) },
      ],
      true,
    );
  }

  #turn(code: number, value: number): void {
    if (value !== 0) this.#send(this.#pointer, [{ type: EV_REL, code, value }]);
  }

  #press(kind: Kind, code: number, isDown: boolean): void {
    const pressed = this.#pressed.get(kind) ?? new Set();
    this.#pressed.set(kind, pressed);
    if (pressed.has(code) === isDown) return;
    if (isDown) pressed.add(code);
    else pressed.delete(code);
    this.#send(kind, [{ type: EV_KEY, code, value: isDown ? 1 : 0 }]);
  }

  /** Who leaves the picture with a key down releases it elsewhere. */
  #releaseAll(): void {
    for (const [kind, pressed] of this.#pressed)
      for (const code of [...pressed]) this.#press(kind, code, false);
  }

  #send(kind: Kind, events: readonly InputEvent[], isMove = false): void {
    if (events.length === 0 || !this.#devices.has(kind)) return;
    if (isMove && this.#waiting.at(-1)?.isMove) this.#waiting.pop();
    this.#waiting.push({ kind, events, isMove });
    if (!this.#isSending) void this.#sendAll();
  }

  async #sendAll(): Promise<void> {
    this.#isSending = true;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      const to = this.#devices.get(next.kind);
      if (to === undefined) continue;
      const text = await call('PUT', `devices/${to.slot}/input`, {
        events: next.events,
        function: to.function,
      }).then(
        () => '',
        (error: unknown) => `the guest gets no input: ${textOf(error)}`,
      );
      if (text === this.error) continue;
      this.error = text;
      this.#changed();
    }
    this.#isSending = false;
  }
}
