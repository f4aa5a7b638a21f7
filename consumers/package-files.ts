/** Checks the files of the packed package. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

interface Manifest {
  readonly exports: Readonly<Record<string, { readonly types: string; readonly default: string }>>;
  readonly bin: Readonly<Record<string, string>>;
}

/** The package contains only files with these names. */
const SHIPPED = [
  /^(package\.json|LICENSE|README\.md|CHANGELOG\.md|CONTRIBUTING\.md)$/,
  /^dist\/(sys|kvm|vfio|devices|vmm)\/.+(\.d\.ts|\.js|\.js\.map)$/,
  /^dist\/chunks\/[\w-]+\.js(\.map)?$/,
  /^dist\/examples\/[\w-]+(\.d\.ts|\.js|\.js\.map)$/,
  /^docs\/.+/,
  /^examples\/[\w-]+(\.qemu)?(\.test)?\.ts$/,
  /^vmm\/guest\/(guest\.elf|abi\.h)$/,
  /^vmm\/display\/page\/(index\.html|page\.css)$/,
];
/** Of those, ours alone: the testing kit of the package is devices/testing and vfio/testing. */
const OURS = [
  /^dist\/(?!(?:vfio|devices)\/testing\/|chunks\/).*\btesting\b/,
  /\.test\.d\.ts$/,
  /^examples\/.+\.kvm\.test\.ts$/,
  /^examples\/(examples|exports)\./,
  /tsbuildinfo/,
];
/** Links of README that only work in the repository. */
const REPOSITORY_ONLY = new Set(['lab/README.md']);

/** Relative links of the documents to files that the package lacks. */
function deadLinks(root: string, documents: readonly string[]): string[] {
  return documents.flatMap((document) => {
    const text = readFileSync(join(root, document), 'utf8');
    return [...text.matchAll(/\]\((?!https?:|#)([^)#]+)/g)]
      .map(([, link = '']) => normalize(join(dirname(document), link)))
      .filter((path) => !REPOSITORY_ONLY.has(path) && !existsSync(join(root, path)))
      .map((path) => `${document} links to ${path}, which is not shipped`);
  });
}

/** @param files files of the tarball @param root folder in which it is unpacked */
export function packageProblems(files: readonly string[], root: string): string[] {
  const { exports, bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;
  const named = [
    ...Object.values(exports).flatMap((entry) => [entry.types, entry.default]),
    ...Object.values(bin),
    'README.md',
    'CHANGELOG.md',
    'LICENSE',
    'docs/vendor-driver.md',
    'examples/boot-nic.ts',
    'dist/examples/boot-nic.js',
    'vmm/guest/guest.elf',
    'vmm/guest/abi.h',
    'vmm/display/page/index.html',
    'vmm/display/page/page.css',
    'dist/vmm/display/page.js',
  ].map((path) => normalize(path));
  return [
    ...named.filter((path) => !files.includes(path)).map((path) => `${path} is missing`),
    ...files
      .filter(
        (path) => !SHIPPED.some((pattern) => pattern.test(path)) || OURS.some((each) => each.test(path)),
      )
      .map((path) => `${path} is not for consumers`),
    ...deadLinks(
      root,
      files.filter((path) => /^(README|CHANGELOG|CONTRIBUTING|docs\/[\w-]+)\.md$/.test(path)),
    ),
  ];
}

/** The package's entries: `tsvisor`, `tsvisor/kvm`. */
export function entriesOf(root: string): string[] {
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;
  return Object.keys(exports).map((key) => `tsvisor${key.slice(1)}`);
}
