/** Milliseconds of CLOCK_MONOTONIC: comparable between threads. Not `performance`, which Node loads when it is first used. */
export const monotonicMs = (): number => Number(process.hrtime.bigint()) / 1e6;
