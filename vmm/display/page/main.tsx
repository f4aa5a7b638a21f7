/** The program of the page that `--view` serves. It gets all data from that server. */
import { render } from 'preact';
import type { MachineStatus } from '../status.js';
import { Controls } from './controls.js';
import { Devices } from './devices.js';
import { Exits } from './exits.js';
import { History } from './history.js';
import type { Json } from './json.js';
import { MemoryMap } from './memory-map.js';
import { PicturesView } from './picture-view.js';
import { Pictures } from './pictures.js';
import { ask, textOf } from './server.js';
import { Timeline } from './timeline.js';

const READ_EVERY_MS = 1000;

const root = document.getElementById('app') as HTMLElement;
const history = new History();
const pictures = new Pictures(draw);
let status: Json<MachineStatus> | undefined;
/** Why the state is not read any more. */
let statusEnd: string | undefined;

function headline(): string {
  if (status?.outcome !== undefined) {
    const { outcome } = status;
    const how = outcome.kind === 'verdict' ? `verdict ${outcome.status}` : outcome.kind;
    return `The guest has ended: ${how}`;
  }
  if (status?.failure !== undefined) return status.failure;
  return (
    pictures.end ??
    statusEnd ??
    (status === undefined ? 'Waiting for the guest' : `The guest is ${status.state}`)
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
        <PicturesView pictures={pictures} />
        {status && <Controls status={status} />}
        {status && <Devices status={status} />}
        {status?.memory && <MemoryMap memory={status.memory} />}
        {status?.counters && <Exits counters={status.counters} history={history} />}
        {status && <Timeline mark={status.timeline} />}
      </main>
    </>
  );
}

function draw(): void {
  render(<App />, root);
}

/** Reads the machine's state until its last one has been read. */
async function followStatus(): Promise<void> {
  try {
    while (status?.state !== 'ended') {
      const reply = await ask('status');
      if (reply.status === 204) return; // a served device has no machine
      status = (await reply.json()) as Json<MachineStatus>;
      history.add(status);
      draw();
      await Promise.race([followed, new Promise((resolve) => setTimeout(resolve, READ_EVERY_MS))]);
      await new Promise(requestAnimationFrame); // which does not come while the page is hidden
    }
  } catch (error) {
    statusEnd = textOf(error);
  }
  draw();
}

draw();
const followed = pictures.follow();
void followStatus();
