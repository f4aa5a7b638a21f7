/** The commands. @see bin.ts, which loads this and ends the process */
import { readFileSync } from 'node:fs';
import { ConfigError } from './config-error.js';
import { EX_UNAVAILABLE } from './outcome.js';

const USAGE = `tsvisor: assigns devices to virtual machines, in TypeScript

usage: tsvisor run [options]     boot a guest with an assigned device
       tsvisor serve DEVICE --socket PATH [options]
                                 offer a device to another VMM through the vfio-user protocol
       tsvisor --version | --help

With no options it boots the built-in guest with a virtio-net NIC assigned through VFIO, whose wire
ends at a responder inside this process.

  --net BACKEND        where the NIC's wire ends: responder, responder:corrupt=N, tap:NAME, passt,
                       passt:tcp-ports=8080:80, passt-socket:PATH
  --device ADDR[,K=V]  assign this device instead: virtio-net,net=tap:tap0  (repeatable; slot=N puts it
                       at PCI slot N, interface=iommufd opens it by its cdev); none: no devices
  --memory SIZE        guest memory: 64M (the default), 1G; ,shared=on lets other processes map it,
                       ,prefault=on populates it at start
  --cpus N             virtual CPUs: 1 (the default)
  --guest FILE         an ELF64 image instead of the built-in guest
  --kernel FILE        boot Linux: a bzImage, or a vmlinux with a PVH entry
  --initrd FILE        its initial RAM disk
  --no-reboot          end the run when the guest requests a reset
  --append TEXT        the kernel's command line; for the built-in guest, more words: 'pings=3 mtu=9000'
  --config FILE        a machine's whole configuration as JSON; other options override it
  --plugin MODULE      load a plug-in: vendor drivers, providers. ./FILE, or a package's name (repeatable)
  --ffi DOOR           the call path for KVM_RUN: ffi-rs (the default) or koffi (if installed)
  --trace CHANNEL      print events of a channel: exit, region, memory, vfio, vfioUser, unclaimed,
                       guestMisuse (repeatable)
  --screenshot FILE    save a display's picture as PNG at the end of the run, and at each SIGUSR2
  --view [PORT]        show it live on a page at 127.0.0.1; a free port if none is given
  --display SLOT       the PCI slot of that display; the first display by default
  --json               the report as one line of JSON instead of text
  --quiet              print only the guest's output

serve takes a device as --device does, and one client at a time:

  --trust-client       map memory that the client could truncate, which would kill this process;
                       without it, such memory is accessed by message
  --screenshot FILE    save the client's picture as PNG at the end, and at each SIGUSR2
  --view [PORT], --plugin, --trace, --quiet  as for run

The exit code is the guest's verdict; 64 for a usage or configuration error, 69 if the host lacks
something, 70 if the guest crashed, 129, 130 or 143 if stopped by SIGHUP, SIGINT or SIGTERM.
`;

/** From sysexits.h. */
const EX_USAGE = 64;

function version(): string {
  const path = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
}

const isUsageError = (error: unknown): boolean =>
  error instanceof ConfigError ||
  (error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS_'));

async function main(args: readonly string[]): Promise<number> {
  const [command, ...rest] = args;
  if (command === '--version') {
    console.log(`tsvisor ${version()}`);
    return 0;
  }
  if (command === undefined || command === '--help' || command === 'help') {
    console.log(USAGE);
    return command === undefined ? EX_USAGE : 0;
  }
  if (command !== 'run' && command !== 'serve') {
    console.error(`tsvisor: unknown command '${command}'\n\n${USAGE}`);
    return EX_USAGE;
  }
  if (rest.includes('--help')) {
    console.log(USAGE);
    return 0;
  }
  // Load only the module of the command: loading dominates the start-up time.
  if (command === 'serve') return (await import('./cli-serve.js')).serve(rest);
  return (await import('./cli-run.js')).run(rest);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(`tsvisor: ${error instanceof Error ? error.message : String(error)}`);
  if (process.env.TSVISOR_DEBUG !== undefined) console.error(error);
  process.exitCode = isUsageError(error) ? EX_USAGE : EX_UNAVAILABLE;
}
