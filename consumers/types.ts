/** Compiles the declarations as a consumer does: strict, and without skipLibCheck. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Ended, inPairs, run } from './run.js';
import { type Site, TYPESCRIPTS } from './site.js';

const RESOLUTIONS = {
  nodenext: { module: 'nodenext', moduleResolution: 'nodenext' },
  bundler: { module: 'esnext', moduleResolution: 'bundler' },
};

export interface TypeCheck {
  readonly name: string;
  readonly ended: Ended;
}

const configurations = TYPESCRIPTS.flatMap((version) =>
  Object.entries(RESOLUTIONS).map(([name, resolution]) => ({ version, name, resolution })),
);

/** One check for each compiler and module resolution; imports all `entries` in addition to the program. */
export function checkTypes({ app }: Site, entries: readonly string[]): Promise<readonly TypeCheck[]> {
  const imports = entries.map((entry, i) => `import * as e${i} from '${entry}';`);
  const all = `${imports.join('\n')}\nexport const all = [${entries.map((_, i) => `e${i}`).join(', ')}];\n`;
  writeFileSync(join(app, 'types/all.ts'), all);
  return inPairs(configurations, async ({ version, name, resolution }) => {
    const folder = join(app, `types-${version}-${name}`);
    const compilerOptions = {
      ...resolution,
      target: 'es2022',
      types: ['node'],
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      noEmit: true,
    };
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['../types'] }));
    const tsc = join(app, `node_modules/typescript-${version}/bin/tsc`);
    return {
      name: `TypeScript ${version}, moduleResolution ${name}`,
      ended: await run(process.execPath, [tsc, '-p', folder], { cwd: app, timeoutMs: 120_000 }),
    };
  });
}
