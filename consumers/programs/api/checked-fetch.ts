/** fetch over the machine's socket, which holds each answer against the OpenAPI document. */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { Agent, type Request, fetch as undiciFetch } from 'undici';

interface Reference {
  readonly $ref: string;
}

interface Described {
  readonly content?: Readonly<Record<string, { readonly schema: object }>>;
}

interface Operation {
  readonly operationId: string;
  readonly responses: Readonly<Record<string, Described | Reference>>;
}

export interface OpenApi {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}

export class CheckedFetch {
  /** `getInfo 200`, for each answer so far. */
  readonly answers = new Set<string>();
  readonly #document: OpenApi;
  readonly #agent: Agent;
  readonly #ajv = new Ajv2020({ allErrors: true });

  constructor(document: OpenApi, socketPath: string) {
    this.#document = document;
    // A connection for each request: one that is kept can be closed by the server just when it is used again.
    this.#agent = new Agent({ connect: { socketPath }, pipelining: 0 });
  }

  /** @throws Error if the document does not have the answer, or describes it differently */
  readonly fetch = async (request: Request): Promise<Response> => {
    const response = await undiciFetch(request, { dispatcher: this.#agent });
    const { method } = request;
    await this.check(method, new URL(request.url).pathname, response.clone() as unknown as Response);
    return response as unknown as Response;
  };

  /** The document that the machine serves. */
  async served(): Promise<unknown> {
    return (await undiciFetch('http://localhost/openapi.json', { dispatcher: this.#agent })).json();
  }

  async check(method: string, pathname: string, response: Response): Promise<void> {
    const { operationId, responses } = this.#find(method, pathname);
    const what = `${operationId} ${response.status}`;
    const described = responses[response.status] ?? (response.ok ? undefined : responses.default);
    if (described === undefined) throw new Error(`${what}: the document does not have this answer`);
    const { content } = this.#resolved(described);
    const type = response.headers.get('content-type');
    const body = Buffer.from(await response.arrayBuffer());
    const schema = content?.[type ?? '']?.schema;
    if (content === undefined && (type !== null || body.length > 0))
      throw new Error(`${what}: its body is not described`);
    if (content !== undefined && schema === undefined) throw new Error(`${what}: ${type} is not described`);
    if (schema !== undefined && type === 'application/json') {
      const validate = this.#ajv.compile(this.#resolved(schema));
      if (!validate(JSON.parse(body.toString())))
        throw new Error(`${what}: ${this.#ajv.errorsText(validate.errors)} in ${body}`);
    }
    this.answers.add(what);
  }

  /** Operations that have had no successful answer. */
  get missing(): readonly string[] {
    const operations = Object.values(this.#document.paths).flatMap((path) => Object.values(path));
    return operations
      .map(({ operationId }) => operationId)
      .filter((id) => ![...this.answers].some((answer) => answer.startsWith(`${id} 2`)));
  }

  #find(method: string, pathname: string): Operation {
    for (const [path, operations] of Object.entries(this.#document.paths)) {
      const operation = operations[method.toLowerCase()];
      const pattern = new RegExp(`^${path.replace(/\{\w+\}/, '[^/]+')}$`);
      if (operation !== undefined && pattern.test(pathname)) return operation;
    }
    throw new Error(`${method} ${pathname} is not in the document`);
  }

  /** What a reference into the document stands for; anything else is itself. */
  #resolved<T extends object>(value: T | Reference): T {
    if (!('$ref' in value)) return value;
    const keys = String(value.$ref).split('/').slice(1);
    return keys.reduce<unknown>((part, key) => (part as Record<string, unknown>)[key], this.#document) as T;
  }

  close(): Promise<void> {
    return this.#agent.close();
  }
}
