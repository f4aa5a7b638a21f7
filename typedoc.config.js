/**
 * The API reference, made from the doc comments: `npm run docs` writes docs/api. It fails on a broken link, on a name
 * without a comment, and on a public signature that mentions a type no entry exports.
 */
import { readFileSync } from 'node:fs';
import { Application, Converter, ReflectionKind } from 'typedoc';

const { exports: published } = JSON.parse(readFileSync('package.json', 'utf8'));

/** Source folder of a public entry, and the specifier that programs import it by. */
const entries = new Map(
  Object.entries(published)
    .filter(([, target]) => target.types !== undefined)
    .map(([name, { types }]) => [
      types.replace(/^\.\/dist\/|\/index\.d\.ts$/g, ''),
      name.replace(/^\./, 'tsvisor'),
    ]),
);

const NEEDS_COMMENT =
  ReflectionKind.Module |
  ReflectionKind.Variable |
  ReflectionKind.Class |
  ReflectionKind.Interface |
  ReflectionKind.TypeAlias |
  ReflectionKind.Property |
  ReflectionKind.CallSignature |
  ReflectionKind.GetSignature;

// The kernel's own names need no comment here: its headers and manual document them.
/** Constants. */
const VERBATIM = /^(_?[A-Z][A-Z0-9]*_\w+|KVMIO)$/;
const KERNEL_FILES = /^(kvm\/|vfio\/|devices\/pci\/)/;
/** Structures with their fields, requests, capabilities. */
const KERNEL_STRUCTURES = /^kvm\/(uapi|uapi-vcpu|caps)\.ts$/;

const ancestors = (reflection) =>
  reflection === undefined ? [] : [reflection, ...ancestors(reflection.parent)];

function explainsItself(reflection, file) {
  const { name, kind, type } = reflection;
  if (KERNEL_STRUCTURES.test(file)) return true;
  if (kind === ReflectionKind.Variable && VERBATIM.test(name) && KERNEL_FILES.test(file)) return true;
  // An object type without a name is explained by the comment of what has that type, or by @param.
  const parts = ReflectionKind.Parameter | ReflectionKind.Property | ReflectionKind.CallSignature;
  if (name === '__type' || ancestors(reflection.parent).some((each) => each.kindOf(parts))) return true;
  if (name.startsWith('[') && file === 'sys/address.ts') return true; // the brand of an address
  // `kind: 'io'` tells the members of a union apart.
  return kind === ReflectionKind.Property && (type?.type === 'literal' || type?.type === 'query');
}

/** @returns {string[]} names without a comment, and their files */
function undocumented(project) {
  return Object.values(project.reflections)
    .filter((reflection) => reflection.kindOf(NEEDS_COMMENT))
    .filter((reflection) => {
      const owner = reflection.kindOf(ReflectionKind.SomeSignature) ? reflection.parent : reflection;
      const signatures = owner.type?.declaration?.signatures ?? owner.signatures ?? [];
      return ![reflection, owner, ...signatures].some((each) => each.hasComment());
    })
    .map((reflection) => [reflection, project.getSymbolIdFromReflection(reflection)])
    .filter(([, symbol]) => symbol === undefined || symbol.packageName === 'tsvisor')
    .filter(([reflection, symbol]) => !explainsItself(reflection, symbol?.packagePath ?? ''))
    .map(
      ([reflection, symbol]) => `${reflection.getFriendlyFullName()} has no comment (${symbol?.packagePath})`,
    );
}

/** The plug-in: names of entries, no links into the sources, and the check for comments. */
function tsvisor(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const module of project.children) module.name = entries.get(module.name) ?? module.name;
  });
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    // A place in the sources, without a link: the package has none.
    for (const { sources = [] } of Object.values(project.reflections)) {
      for (const source of sources) delete source.url;
    }
  });
  app.on(Application.EVENT_VALIDATE_PROJECT, (project) => {
    for (const text of undocumented(project)) app.logger.validationWarning(text);
  });
}

/** @type {Partial<import('typedoc').TypeDocOptions>} */
export default {
  name: 'tsvisor',
  tsconfig: 'tsconfig.build.json',
  entryPoints: [...entries.keys()].map((folder) => `${folder}/index.ts`),
  plugin: [tsvisor],
  out: 'docs/api',
  readme: 'none',
  includeVersion: true,
  disableGit: true,
  sourceLinkTemplate: '{path}',
  hideGenerator: true,
  excludePrivate: true,
  excludeInternal: true,
  treatWarningsAsErrors: true,
  // The core's inner parts, as members of its public classes that only its own files use; and names of errno values.
  intentionallyNotExported: [
    'Container',
    'CoreState',
    'DeviceSet',
    'DirtyPages',
    'DmaClient',
    'DmaSpace',
    'LockOrder',
    'RefCount',
    'RegionTable',
    'SrcuNotifierChain',
    'VfioGroup',
    'errno',
  ],
  validation: { notExported: true, invalidLink: true, invalidPath: true, notDocumented: false },
};
