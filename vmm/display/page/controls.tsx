import { useState } from 'preact/hooks';
import { useAction } from './action.js';
import type { Info } from './server.js';

const BUTTONS: readonly (readonly [string, string])[] = [
  ['pause', 'Pause guest'],
  ['resume', 'Resume guest'],
  ['power-button', 'Power button'],
  ['reset', 'Reset guest'],
  ['stop', 'Stop'],
];

/** What can be done to the machine as a whole. */
export function Controls({ state }: { readonly state: Info['state'] }) {
  const { run, error, isBusy } = useAction();
  if (state === 'ended') return null;
  const unfit = state === 'paused' ? 'pause' : 'resume';
  const buttons = BUTTONS.filter(([name]) => name !== unfit);
  return (
    <section aria-label="Controls">
      {buttons.map(([name, text]) => (
        <button key={name} type="button" disabled={isBusy} onClick={() => run('PUT', name)}>
          {text}
        </button>
      ))}
      {error}
    </section>
  );
}

/** `virtio-net,net=responder` as on the command line. */
function parse(text: string): { address: string; options: Record<string, string> } {
  const [address = '', ...options] = text.split(',');
  return { address, options: Object.fromEntries(options.map((option) => splitOnce(option))) };
}

function splitOnce(option: string): [string, string] {
  const at = option.indexOf('=');
  return at < 0 ? [option, ''] : [option.slice(0, at), option.slice(at + 1)];
}

/** Attaches a device while the guest runs. */
export function Attach() {
  const [text, setText] = useState('');
  const { run, error, isBusy } = useAction();
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        run('POST', 'devices', parse(text));
      }}
    >
      <label>
        Device and options{' '}
        <input
          required
          value={text}
          placeholder="virtio-net,net=responder"
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <button type="submit" disabled={isBusy}>
        Attach
      </button>
      {error}
    </form>
  );
}

/** Detaches a device, or pulls it out. */
export function Detach({ slot, name }: { readonly slot: number; readonly name: string }) {
  const { run, error, isBusy } = useAction();
  return (
    <>
      <button
        type="button"
        disabled={isBusy}
        aria-label={`Detach ${name}`}
        onClick={() => run('DELETE', `devices/${slot}`)}
      >
        {isBusy ? 'Waiting for the guest' : 'Detach'}
      </button>{' '}
      <button
        type="button"
        aria-label={`Pull out ${name}, without asking the guest`}
        onClick={() => run('DELETE', `devices/${slot}?force=true`)}
      >
        Pull out
      </button>
      {error}
    </>
  );
}
