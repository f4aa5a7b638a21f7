/** Requests to the server that serves this page. Addresses are relative, so they have the page's token. */

/** Names this page: the server keeps what it has sent to each. */
const CLIENT = Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join('');

async function answered(request: Promise<Response>): Promise<Response> {
  const reply = await request;
  if (!reply.ok) throw new Error(await reply.text());
  return reply;
}

/** @throws TypeError if the server is gone; Error with the server's words if it refuses */
export const ask = (path: string, values: Readonly<Record<string, number>> = {}): Promise<Response> => {
  const rest = Object.entries(values).map(([name, value]) => `&${name}=${value}`);
  return answered(fetch(`${path}?client=${CLIENT}${rest.join('')}`, { cache: 'no-store' }));
};

/** Sends a command. @throws as {@link ask} */
export const command = (name: string, body: object = {}): Promise<Response> =>
  answered(
    fetch(`do/${name}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    }),
  );

/** What to say of an error: fetch throws a TypeError if nobody answers. */
export const textOf = (error: unknown): string =>
  error instanceof TypeError ? 'The guest has ended, or tsvisor was stopped' : (error as Error).message;
