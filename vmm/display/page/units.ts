/** `4 KiB`, or bytes. */
export function size(bytes: number): string {
  let left = bytes;
  let unit = 0;
  for (; left >= 1024 && left % 1024 === 0 && unit < 4; unit++) left /= 1024;
  return `${left.toLocaleString('en')} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

export const hex = (value: number): string => `0x${value.toString(16)}`;
