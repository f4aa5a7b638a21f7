/** Compares the package's public names with docs/exports.txt, so that none appears or disappears by accident. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const UPDATE = 'if this is meant: npm run exports -- --update, and a line in CHANGELOG.md';

type Targets = Readonly<Record<string, { readonly types?: string }>>;
const published = (JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8')) as { exports: Targets }).exports;

/** Specifiers of the public entries, and their source files. */
const entries = Object.entries(published).flatMap(([name, { types }]) =>
  types === undefined
    ? []
    : [{ name: name.replace(/^\./, 'tsvisor'), file: types.replace(/^\.\/dist\/(.*)\.d\.ts$/, '$1.ts') }],
);

function createProgram(): ts.Program {
  const { config } = ts.readConfigFile(`${ROOT}tsconfig.json`, ts.sys.readFile);
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, ROOT);
  // Names need no library files, which take most of the time to parse.
  return ts.createProgram({
    rootNames: entries.map(({ file }) => ROOT + file),
    options: { ...options, noLib: true, types: [] },
  });
}

/** The names that a module exports: `value` for those that exist at run time, `type` for types. */
async function publicNames(program: ts.Program, file: string): Promise<string[]> {
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(ROOT + file);
  const module = source === undefined ? undefined : checker.getSymbolAtLocation(source);
  if (module === undefined) throw new Error(`${file} is not a module`);
  const values = new Set(Object.keys(await import(ROOT + file)));
  return checker
    .getExportsOfModule(module)
    .map((symbol) => {
      const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
      const isType = (target.flags & ts.SymbolFlags.Type) !== 0;
      const kinds = [...(values.has(symbol.name) ? ['value'] : []), ...(isType ? ['type'] : [])];
      return `${symbol.name}: ${kinds.join(', ')}`;
    })
    .sort();
}

test('the public names are those of docs/exports.txt', { timeout: 60_000 }, async () => {
  const program = createProgram();
  const lists: string[] = [];
  for (const { name, file } of entries) {
    lists.push([name, ...(await publicNames(program, file)).map((line) => `  ${line}`), ''].join('\n'));
  }
  await expect(lists.join('\n'), UPDATE).toMatchFileSnapshot(`${ROOT}docs/exports.txt`);
});
