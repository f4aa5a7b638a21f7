import type { ComponentChild } from 'preact';
import { useState } from 'preact/hooks';
import { command, textOf } from './server.js';

/** Sends commands, one at a time, and shows the error of the last one. */
export function useAction(): {
  readonly run: (name: string, body?: object) => void;
  readonly error: ComponentChild;
  readonly isBusy: boolean;
} {
  const [text, setText] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const run = (name: string, body?: object) => {
    setBusy(true);
    setText(undefined);
    command(name, body)
      .catch((error: unknown) => setText(textOf(error)))
      .finally(() => setBusy(false));
  };
  const error = (
    <span role="alert" class="error">
      {text}
    </span>
  );
  return { run, error, isBusy };
}
