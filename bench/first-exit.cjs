/**
 * For `node --require`, in each thread: notes when a vCPU leaves the guest for the first time, as milliseconds of the monotonic clock in
 * $TSVISOR_FIRST_EXIT, and ends the process there.
 */
const { channel } = require('node:diagnostics_channel');
const { writeFileSync } = require('node:fs');

channel('tsvisor:kvm.exit').subscribe(() => {
  writeFileSync(process.env.TSVISOR_FIRST_EXIT, String(Number(process.hrtime.bigint()) / 1e6));
  process.kill(process.pid, 'SIGKILL');
});
