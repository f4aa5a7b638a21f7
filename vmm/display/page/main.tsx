/** The program of the page that `--view` serves. It gets all data from that server. */
import { type ComponentChild, render } from 'preact';
import { Controls } from './controls.js';
import { Devices } from './devices.js';
import { Exits } from './exits.js';
import { GuestInput } from './guest-input.js';
import { Machine } from './machine.js';
import { MemoryMap } from './memory-map.js';
import { PicturesView } from './picture-view.js';
import { Pictures } from './pictures.js';
import { ScreenFit } from './screen-fit.js';
import { ask, textOf } from './server.js';
import { Timeline } from './timeline.js';

const root = document.getElementById('app') as HTMLElement;
const machine = new Machine(() => {
  input.update(machine.devices ?? machine.inputs ?? []);
  fit.update(machine.info?.restarts ?? 0);
  panels = panelsOf(machine);
  draw();
});
/** Made when the machine has been read, and the same for the pictures in between: those come 60 times a second. */
let panels: ComponentChild;
const pictures = new Pictures(draw);
const input = new GuestInput(draw);
const fit = new ScreenFit(draw);
/** Why the machine is not read any more. */
let end: string | undefined;

function headline(): string {
  const { info } = machine;
  if (info?.outcome !== undefined) {
    const { kind, status } = info.outcome;
    return `The guest has ended: ${kind === 'verdict' ? `verdict ${status}` : kind}`;
  }
  if (info?.failure !== undefined) return info.failure;
  return pictures.end ?? end ?? (info === undefined ? 'Waiting for the guest' : `The guest is ${info.state}`);
}

function panelsOf({ info, devices, memory, counters, history, timeline }: Machine) {
  return (
    <>
      {info && <Controls state={info.state} />}
      {devices && <Devices devices={devices} hasEnded={info?.state === 'ended'} />}
      {memory && <MemoryMap memory={memory} />}
      {counters && <Exits counters={counters} history={history} />}
      <Timeline events={timeline.events} dropped={timeline.dropped} />
    </>
  );
}

function App() {
  return (
    <>
      <header>
        <h1>tsvisor</h1>
        <p id="status" role="status">
          {headline()}
        </p>
        {pictures.list.length > 0 && (
          <button
            type="button"
            aria-pressed={pictures.isFrozen}
            disabled={pictures.end !== undefined}
            onClick={() => pictures.freeze(!pictures.isFrozen)}
          >
            Freeze pictures
          </button>
        )}
      </header>
      <main>
        <PicturesView
          pictures={pictures}
          input={input}
          fit={machine.info || machine.inputs ? fit : undefined}
        />
        {panels}
      </main>
    </>
  );
}

function draw(): void {
  render(<App />, root);
}

draw();
const ended = pictures.follow();
const followed = machine.follow(ended).catch((error: unknown) => {
  end = textOf(error);
});
void Promise.all([ended, followed]).then(() => {
  draw();
  ask('done').catch(() => {}); // the server may be gone
});
