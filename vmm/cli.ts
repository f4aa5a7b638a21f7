/** The commands. @see bin.ts, which loads this and ends the process */
import { errorJson, errorLines, errorStatus } from './cli-error.js';
import { main } from './cli-main.js';
import { paintFor } from './colours.js';
import { asksFor } from './command-line.js';
import { isSignalStatus, SIGNAL_STATUS } from './outcome.js';
import { errorOutput, Output } from './output.js';

/** How long a stopped process waits until its output is read. */
const READER_MS = 1000;

const out = new Output();
errorOutput(); // from now on, a closed stderr ends nothing
const args = process.argv.slice(2);

async function statusOf(): Promise<number> {
  try {
    return await main(args, out);
  } catch (error) {
    const paint = paintFor(process.stderr);
    for (const line of errorLines(error))
      console.error(line.replace(/^tsvisor:/, (name) => paint('error', name)));
    if (process.env.TSVISOR_DEBUG !== undefined) console.error(error);
    if (args[0] !== 'serve' && asksFor(args, 'json')) out.line(errorJson(error));
    return errorStatus(error);
  }
}

/** A process that was told to stop does not wait for a reader of its output: it ends with `status` after a second. */
async function leaveUnread(status: number): Promise<void> {
  const isRead = await Promise.all([out, errorOutput()].map((each) => each.flush(READER_MS)));
  if (isRead.includes(false)) process.exit(status);
}

const status = await statusOf();
if (isSignalStatus(status)) await leaveUnread(status);
const failed = await out.end();
// Of a signal that ended the command, and a reader that has gone, the signal counts.
process.exitCode =
  failed === undefined || (failed === SIGNAL_STATUS.SIGPIPE && isSignalStatus(status)) ? status : failed;
