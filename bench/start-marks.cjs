/**
 * For `node --require`, in each thread: notes when it reaches the milestones of a start, from Node's own timing and from the
 * trace channels, and appends them to $TSVISOR_START_MARKS when it ends, as lines of JSON. Times are milliseconds of the
 * monotonic clock.
 */
const { channel } = require('node:diagnostics_channel');
const { appendFileSync } = require('node:fs');
const { performance } = require('node:perf_hooks');
const { isMainThread } = require('node:worker_threads');

const now = () => Number(process.hrtime.bigint()) / 1e6;
const marks = { isMainThread };
const first = (name) => {
  marks[name] ??= now();
};

const { dlopen } = process;
process.dlopen = (...args) => {
  first('ffi');
  return dlopen.apply(process, args);
};
channel('tsvisor:memory').subscribe(() => first('memory'));
channel('tsvisor:vfio').subscribe(() => {
  first('attaching');
  if (marks.exit === undefined) marks.attached = now();
});
channel('tsvisor:kvm.exit').subscribe(() => first('exit'));
process.on('exit', () => {
  marks.booted = now() - performance.now() + performance.nodeTiming.bootstrapComplete; // not known earlier
  appendFileSync(process.env.TSVISOR_START_MARKS, `${JSON.stringify(marks)}\n`);
});
