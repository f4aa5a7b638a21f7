/** The files of the page, and the headers of every answer. */
import { readFileSync } from 'node:fs';

/** Nothing is cached: the token is in the address, and the next run has another. */
export const HEADERS = {
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
} as const;

/** The page loads nothing from elsewhere, and no other page can show it in a frame. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** By the name in the address: where it is in the package, and its type. The build makes the script. */
const FILES: ReadonlyMap<string, readonly [string, string]> = new Map([
  ['', ['vmm/display/page/index.html', 'text/html']],
  ['page.css', ['vmm/display/page/page.css', 'text/css']],
  ['page.js', ['dist/vmm/display/page.js', 'text/javascript']],
]);

/** A file of the page with its headers; undefined if there is none of that name. */
export function pageFile(
  name: string,
): { readonly headers: Record<string, string>; readonly body: Buffer } | undefined {
  const file = FILES.get(name);
  if (file === undefined) return undefined;
  const [path, type] = file;
  // This module is two folders below the package's root, as a source and when built.
  const body = readFileSync(new URL(`../../${path}`, import.meta.url));
  const headers = { ...HEADERS, 'Content-Type': `${type}; charset=utf-8`, 'Content-Security-Policy': POLICY };
  return { headers, body };
}
