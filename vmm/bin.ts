#!/usr/bin/env node
/**
 * The program `tsvisor`, built as dist/vmm/cli.js. It imports no file statically: a module that cannot be read (EMFILE,
 * EIO, ENOMEM) would end the process with Node's stack trace before a line of ours has run. And from its first line on,
 * no signal ends the process by its default action, which would leave sockets, files and bound devices behind; what
 * comes while Node itself starts, before this line, does, and nothing is there to be left then.
 */
import module from 'node:module';
import { keepCompiledCode } from './compile-cache.js'; // built into the same file

/** 128 + the signal's number, as in a shell. */
const STOP_STATUS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
/** From sysexits.h: the host lacks something, an error of this program. */
const [EX_UNAVAILABLE, EX_SOFTWARE] = [69, 70];

for (const [signal, status] of Object.entries(STOP_STATUS)) {
  // Once a command has its own handler, which closes what is open, that one decides.
  process.on(signal, () => {
    if (process.listenerCount(signal) === 1) process.exit(status);
  });
}
// A command that takes pictures has a handler of its own; and a write past RLIMIT_FSIZE is an error of that write.
for (const signal of ['SIGUSR2', 'SIGXFSZ'] as const) process.on(signal, () => {});

/** A guess, before the command line is parsed: a machine's threads are needed soon. One in a sandbox starts in a second program. */
function startsMachine([command, ...options]: readonly string[]): boolean {
  const isElsewhere =
    process.env.TSVISOR_SANDBOX !== undefined || options.some((word) => word.startsWith('--sandbox'));
  return command === 'run' && !isElsewhere && !options.includes('--help') && !options.includes('-h');
}

function fail(error: unknown, status: number): void {
  console.error(`tsvisor: ${error instanceof Error ? error.message : String(error)}`);
  if (process.env.TSVISOR_DEBUG !== undefined) console.error(error);
  process.exitCode = status;
}

process.on('uncaughtException', (error) => {
  const isHosts = 'errno' in error;
  fail(error, isHosts ? EX_UNAVAILABLE : EX_SOFTWARE);
  process.exit(); // the hooks of process-exit.ts end the threads
});

keepCompiledCode(
  (module as { enableCompileCache?: (folder: string) => unknown }).enableCompileCache,
  process.env,
);
try {
  if (startsMachine(process.argv.slice(2))) {
    const { startAhead } = await import('../sys/thread-ahead.js');
    startAhead({ module: new URL('./machine-thread.js', import.meta.url), name: 'tsvisor-machine' });
    startAhead({ module: new URL('../sys/event-loop.js', import.meta.url), name: 'tsvisor-event' });
  }
  await import('./cli.js');
} catch (error) {
  fail(error, EX_UNAVAILABLE);
}
