import { createCipheriv, createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Deterministic content that neither compresses nor benefits from caching zeros. */
export function fileContent(bytes: number): Buffer {
  return createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16)).update(Buffer.alloc(bytes));
}

/** MD5 of {@link fileContent} in the format of busybox's md5sum, as a checksum. */
export const fileChecksum = (bytes: number): string =>
  createHash('md5').update(fileContent(bytes)).digest('hex');

/**
 * Serves N bytes at /N to guests, which reach this machine's loopback as 10.0.2.2.
 * @param files more to serve, by name
 */
export async function startFileServer(
  files: Readonly<Record<string, string>> = {},
): Promise<{ url: string } & Disposable> {
  const server = createServer((request, response) => {
    const file = files[request.url?.slice(1) ?? ''];
    if (file !== undefined) {
      response.end(readFileSync(file));
      return;
    }
    const bytes = Number(request.url?.slice(1));
    const valid = Number.isInteger(bytes) && bytes > 0 && bytes <= 1 << 30;
    response.writeHead(valid ? 200 : 404, { 'Content-Length': valid ? bytes : 0 });
    response.end(valid ? fileContent(bytes) : undefined);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  server.unref();
  return {
    url: `http://10.0.2.2:${(server.address() as AddressInfo).port}`,
    [Symbol.dispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}
