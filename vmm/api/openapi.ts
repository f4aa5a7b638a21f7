/** The API's description, made of the table of routes and the schemas. */
import { z } from 'zod';
import type { Route } from './routes.js';
import { errorSchema } from './schemas.js';

/** What of a row is not a program. */
type RouteTerms = Omit<Route, 'answer'>;

type Json = Readonly<Record<string, unknown>>;

const schemaOf = (type: z.ZodType, io: 'input' | 'output'): Json => {
  const { $schema: _, ...schema } = z.toJSONSchema(type, { target: 'draft-2020-12', io });
  return schema;
};

const binary = (type: string): Json => ({ [type]: { schema: { type: 'string', format: 'binary' } } });
const BYTES = binary('application/octet-stream');

const STATUS: Readonly<Record<number, string>> = { 200: 'OK', 201: 'Created', 204: 'Done' };

function parameters({ path, query }: RouteTerms): readonly Json[] {
  const { properties = {} } = schemaOf(query, 'input') as {
    readonly properties?: Readonly<Record<string, Json>>;
  };
  const slot = {
    name: 'slot',
    in: 'path',
    required: true,
    schema: { type: 'integer', minimum: 1, maximum: 31 },
  };
  return [
    ...(path.includes('{slot}') ? [slot] : []),
    ...Object.entries(properties).map(([name, schema]) => ({ name, in: 'query', required: false, schema })),
  ];
}

function operation(route: RouteTerms): Json {
  const { id, summary, body, success } = route;
  const given = parameters(route);
  const { schema, type } = success;
  const content =
    schema !== undefined
      ? { 'application/json': { schema: schemaOf(schema, 'output') } }
      : type !== undefined
        ? binary(type)
        : undefined;
  return {
    operationId: id,
    summary,
    ...(given.length === 0 ? {} : { parameters: given }),
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            required: true,
            content: body === 'bytes' ? BYTES : { 'application/json': { schema: schemaOf(body, 'input') } },
          },
        }),
    responses: {
      [success.status]: {
        description: STATUS[success.status] ?? 'OK',
        ...(content === undefined ? {} : { content }),
      },
      default: { $ref: '#/components/responses/Error' },
    },
  };
}

/** The OpenAPI 3.1 document. @param version of the program, which is not that of the paths */
export function createOpenApi(routes: readonly RouteTerms[], version: string): Json {
  const paths: Record<string, Json> = {};
  for (const route of routes) {
    paths[route.path] = { ...paths[route.path], [route.method.toLowerCase()]: operation(route) };
  }
  const error = { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } };
  return {
    openapi: '3.1.0',
    info: {
      title: 'tsvisor',
      version,
      description: 'Control of a running machine, over the unix socket of `tsvisor run --api unix:PATH`.',
    },
    paths,
    components: {
      schemas: { Error: schemaOf(errorSchema, 'output') },
      responses: { Error: { description: 'The reason, and what to do about it', content: error } },
    },
  };
}
