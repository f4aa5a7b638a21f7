/** The commands. @see bin.ts, which loads this and ends the process */
import { errorJson, errorLines, errorStatus } from './cli-error.js';
import { main } from './cli-main.js';
import { asksFor } from './command-line.js';
import { Output } from './output.js';

const out = new Output();
process.stderr.on('error', () => {}); // nothing can report that it is closed, and that is no reason to end
const args = process.argv.slice(2);

async function statusOf(): Promise<number> {
  try {
    return await main(args, out);
  } catch (error) {
    for (const line of errorLines(error)) console.error(line);
    if (process.env.TSVISOR_DEBUG !== undefined) console.error(error);
    if (args[0] === 'run' && asksFor(args, 'json')) out.line(errorJson(error));
    return errorStatus(error);
  }
}

const status = await statusOf();
process.exitCode = (await out.end()) ?? status;
