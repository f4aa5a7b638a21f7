import ts from 'typescript';
import { expect, test } from 'vitest';
import { instrument } from './instrument.js';
import { pointsOf } from './points.js';

function pointsIn(text: string) {
  const host = ts.createCompilerHost({});
  const plain = host.getSourceFile.bind(host);
  host.getSourceFile = (name, version) =>
    name === 'a.ts' ? ts.createSourceFile(name, text, version, true) : plain(name, version);
  const program = ts.createProgram(['a.ts'], { noLib: true }, host);
  return pointsOf('a.ts', program.getSourceFile('a.ts') as ts.SourceFile, program.getTypeChecker());
}
const changes = (text: string): string[] =>
  pointsIn(text).map(({ kind, from, to }) => `${kind}: ${from} -> ${to}`);

test('each kind of fault is found where a test could notice it', () => {
  expect(changes('if (a < b) f(a);')).toEqual([
    'condition: a < b -> false',
    'condition: a < b -> true',
    'boundary: a < b -> a <= b',
    'statement: f(a); -> ',
  ]);
  expect(changes('const x = a?.b.c?.[0] ?? 7n;')).toEqual([
    'logic: a?.b.c?.[0] ?? 7n -> a?.b.c?.[0]',
    'logic: a?.b.c?.[0] ?? 7n -> 7n',
    'optional: a?.b.c?.[0] -> a.b.c[0]',
    expect.stringMatching('number: 0 -> 0 \\+ 1'),
    expect.stringMatching('number: 7n -> 7n [+-] 1n'),
  ]);
  expect(changes('const f = (a: number): boolean => a === 1 && !b;')).toContain(
    'result: a === 1 && !b -> true',
  );
});

test('text is left alone', () => {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: a source
  expect(changes('log(`${a + 1} of 2`); const hint = a ? "one" : "two"; type T = 1 | 2;')).toEqual([]);
});

test('a method is replaced if it has another one, whatever it is called', () => {
  const calls = (text: string) => changes(text).filter((change) => change.startsWith('logic'));
  expect(calls('const x = a.some(f);')).toEqual(['logic: a.some(f) -> a.every(f)']);
  expect(calls('const x = a.toString(16) + b.valueOf();')).toEqual([]);
});

test('a source holds all its mutants, and each switch turns on one', () => {
  const text = 'const out = [1 + 2, 8 >> 1]; if (out[0] > 2) out.push(9);';
  const mutants = pointsIn(text).map((point, at) => ({ ...point, id: at + 1 }));
  const [source] = instrument(text, mutants, '/none').split('\nimport');
  const run = (on: number): unknown =>
    new Function('mutantIsOn', `${source}; return out;`)((id: number) => id === on);
  expect(run(0)).toEqual([3, 4, 9]);
  const results = Object.fromEntries(mutants.map(({ id, to }) => [to, run(id)]));
  expect(results).toMatchObject({ '1 - 2': [-1, 4], '8 << 1': [3, 16, 9], false: [3, 4], '': [3, 4] });
});
