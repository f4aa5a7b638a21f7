import type { ComponentChild } from 'preact';
import { useState } from 'preact/hooks';
import { call, textOf } from './server.js';

/** Calls the API, one call at a time, and shows the error of the last one. */
export function useAction(): {
  readonly run: (...args: Parameters<typeof call>) => void;
  readonly error: ComponentChild;
  readonly isBusy: boolean;
} {
  const [text, setText] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const run = (...args: Parameters<typeof call>) => {
    setBusy(true);
    setText(undefined);
    call(...args)
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
