/** Keys by their place on the keyboard: `KeyboardEvent.code` and the KEY_ numbers of linux/input-event-codes.h. */

/** Names in the order of their numbers, from the first number on; `-` has no key in a browser. */
const RUNS: readonly (readonly [number, string])[] = [
  [
    1,
    'Escape Digit1 Digit2 Digit3 Digit4 Digit5 Digit6 Digit7 Digit8 Digit9 Digit0 Minus Equal Backspace Tab',
  ],
  [16, 'KeyQ KeyW KeyE KeyR KeyT KeyY KeyU KeyI KeyO KeyP BracketLeft BracketRight Enter ControlLeft'],
  [30, 'KeyA KeyS KeyD KeyF KeyG KeyH KeyJ KeyK KeyL Semicolon Quote Backquote ShiftLeft Backslash'],
  [
    44,
    'KeyZ KeyX KeyC KeyV KeyB KeyN KeyM Comma Period Slash ShiftRight NumpadMultiply AltLeft Space CapsLock',
  ],
  [59, 'F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NumLock ScrollLock Numpad7 Numpad8 Numpad9 NumpadSubtract'],
  [75, 'Numpad4 Numpad5 Numpad6 NumpadAdd Numpad1 Numpad2 Numpad3 Numpad0 NumpadDecimal - - IntlBackslash'],
  [87, 'F11 F12 IntlRo - - Convert KanaMode NonConvert - NumpadEnter ControlRight NumpadDivide PrintScreen'],
  [100, 'AltRight - Home ArrowUp PageUp ArrowLeft ArrowRight End ArrowDown PageDown Insert Delete'],
  [113, 'AudioVolumeMute AudioVolumeDown AudioVolumeUp Power NumpadEqual - Pause - NumpadComma Lang1 Lang2'],
  [124, 'IntlYen MetaLeft MetaRight ContextMenu'],
  [183, 'F13 F14 F15 F16 F17 F18 F19 F20 F21 F22 F23 F24'],
];

export const KEYS: ReadonlyMap<string, number> = new Map(
  RUNS.flatMap(([first, names]) => names.split(' ').map((name, i) => [name, first + i] as const)).filter(
    ([name]) => name !== '-',
  ),
);
