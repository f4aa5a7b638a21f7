/** One line for a trace event: hexadecimal addresses, bytes as they are, nothing that JSON cannot say left out. */
export function traceText(event: object): string {
  return JSON.stringify(event, (_key, value: unknown) => {
    if (typeof value === 'bigint') return `0x${value.toString(16)}`;
    if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
    return value;
  });
}
