/**
 * The API reference: `npm run docs` generates docs/api from the doc comments. It fails on a broken link, on a public
 * name without a comment, and on a public signature with a type that no entry exports.
 */
import { readFileSync } from 'node:fs';
import { Application, Converter, ReflectionKind } from 'typedoc';

const { exports: published } = JSON.parse(readFileSync('package.json', 'utf8'));

/** Import specifiers of the public entries, by source folder. */
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

// The kernel's names need no comment: its headers and documentation explain them.
/** Constants. */
const VERBATIM = /^(_?[A-Z][A-Z0-9]*_\w+|KVMIO)$/;
const KERNEL_FILES = /^(kvm\/|vfio\/|devices\/pci\/)/;
/** Structures and their fields, requests, capabilities. */
const KERNEL_STRUCTURES = /^kvm\/(uapi|uapi-vcpu|caps)\.ts$/;

const ancestors = (reflection) =>
  reflection === undefined ? [] : [reflection, ...ancestors(reflection.parent)];

function explainsItself(reflection, file) {
  const { name, kind, type } = reflection;
  if (KERNEL_STRUCTURES.test(file)) return true;
  if (kind === ReflectionKind.Variable && VERBATIM.test(name) && KERNEL_FILES.test(file)) return true;
  // The comment of its owner, or @param, explains an anonymous object type.
  const parts = ReflectionKind.Parameter | ReflectionKind.Property | ReflectionKind.CallSignature;
  if (name === '__type' || ancestors(reflection.parent).some((each) => each.kindOf(parts))) return true;
  if (name.startsWith('[') && file === 'sys/address.ts') return true; // the brand of an address
  // A literal such as `kind: 'io'` is a union's discriminant.
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

/** Plug-in: names modules by their specifiers, removes links to the sources, and reports missing comments. */
function tsvisor(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const module of project.children) module.name = entries.get(module.name) ?? module.name;
  });
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    // The package contains no sources to link to.
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
  // Internal parts of the core that are members of its public classes, and the names of errno values.
  intentionallyNotExported: [
    'Container',
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
