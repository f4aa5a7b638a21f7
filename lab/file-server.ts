import { createCipheriv, createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** The same bytes at every call and on every machine, which no compression or cache of zeros makes easier. */
export function fileContent(bytes: number): Buffer {
  return createCipheriv('aes-128-ctr', Buffer.alloc(16), Buffer.alloc(16)).update(Buffer.alloc(bytes));
}

/** MD5 of {@link fileContent}, as busybox's md5sum prints it in the guest: a checksum, not a secret. */
export const fileChecksum = (bytes: number): string =>
  createHash('md5').update(fileContent(bytes)).digest('hex');

/** Serves any number of bytes at /NUMBER to guests, which reach this machine's loopback as 10.0.2.2. */
export async function startFileServer(): Promise<{ url: string } & Disposable> {
  const server = createServer((request, response) => {
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
