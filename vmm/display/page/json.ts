/** A type as JSON brings it: addresses, which are bigints, are hexadecimal strings. */
export type Json<T> = T extends bigint
  ? string
  : T extends readonly (infer E)[]
    ? readonly Json<E>[]
    : T extends object
      ? { readonly [K in keyof T]: Json<T[K]> }
      : T;

/** `4 KiB`, or bytes. */
export function size(bytes: number | string): string {
  let left = Number(bytes);
  let unit = 0;
  for (; left >= 1024 && left % 1024 === 0 && unit < 4; unit++) left /= 1024;
  return `${left.toLocaleString('en')} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

export const hex = (value: number | string): string => `0x${Number(value).toString(16)}`;
