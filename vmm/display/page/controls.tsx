import { useState } from 'preact/hooks';
import type { MachineStatus } from '../status.js';
import { useAction } from './action.js';

const BUTTONS: readonly (readonly [string, string])[] = [
  ['pause', 'Pause guest'],
  ['resume', 'Resume guest'],
  ['power', 'Power button'],
  ['reset', 'Reset guest'],
  ['stop', 'Stop'],
];

/** What can be done to the machine as a whole. */
export function Controls({ status }: { readonly status: Pick<MachineStatus, 'state' | 'controls'> }) {
  const { run, error, isBusy } = useAction();
  const isUseful = (name: string) =>
    name === 'pause' ? status.state !== 'paused' : name !== 'resume' || status.state === 'paused';
  const buttons = BUTTONS.filter(([name]) => status.controls.includes(name) && isUseful(name));
  if (buttons.length === 0) return null;
  return (
    <section aria-label="Controls">
      {buttons.map(([name, text]) => (
        <button key={name} type="button" disabled={isBusy} onClick={() => run(name)}>
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
        run('attach', parse(text));
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
        onClick={() => run('detach', { slot })}
      >
        Detach
      </button>{' '}
      <button
        type="button"
        aria-label={`Pull out ${name}, without asking the guest`}
        onClick={() => run('detach', { slot, force: true })}
      >
        Pull out
      </button>
      {error}
    </>
  );
}
