import { readFileSync, writeFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { createSharedMemory, fileKind } from './mapping.js';

const PAGE = 2 ** 21;
const POOL = '/sys/kernel/mm/hugepages/hugepages-2048kB';
const count = (name: string): number => {
  try {
    return Number(readFileSync(`${POOL}/${name}`, 'utf8'));
  } catch {
    return Number.NaN;
  }
};

/** Sets pages aside until the test ends. Returns why it cannot. */
function setAside(pages: number): string | undefined {
  const before = count('nr_hugepages');
  if (Number.isNaN(before)) return 'this kernel has no huge pages of 2 MiB';
  try {
    writeFileSync(`${POOL}/nr_hugepages`, `${before + pages}`);
  } catch (error) {
    return `they cannot be set aside: ${(error as Error).message}`;
  }
  onTestFinished(() => writeFileSync(`${POOL}/nr_hugepages`, `${before}`));
  const made = count('nr_hugepages') - before;
  return made < pages ? `the host could set aside ${made} of ${pages}` : undefined;
}

test('memory of huge pages has all of them at once, sealed, and gives them back', (context) => {
  const problem = setAside(3);
  context.skip(problem !== undefined, problem);
  const before = count('free_hugepages');
  {
    using memory = createSharedMemory('huge', 3 * PAGE, { hugePageBytes: PAGE });
    expect(count('free_hugepages')).toBe(before - 3); // populated, not reserved only
    expect(count('resv_hugepages')).toBe(0);
    expect(fileKind(memory.fd)).toBe('huge');
    memory.mapping.view.slice(3 * PAGE - 1, 1).set([0xa5]);
    expect(readFileSync(`/proc/self/fd/${memory.fd.number}`)[3 * PAGE - 1]).toBe(0xa5);
  }
  expect(count('free_hugepages')).toBe(before);
});

test('too few are refused at once, with how many there are and the command for the rest', (context) => {
  context.skip(Number.isNaN(count('nr_hugepages')), 'this kernel has no huge pages of 2 MiB');
  const all = count('nr_hugepages');
  const free = count('free_hugepages') - count('resv_hugepages');
  const wanted = free + 1_000_000; // more than a host has memory for
  expect(() => createSharedMemory('huge', wanted * PAGE, { hugePageBytes: PAGE })).toThrowError(
    new RegExp(
      `^mmap on memfd huge: ENOMEM\n  hint: ${wanted} huge pages of 2 MiB are needed, and ${free} are free: ` +
        `as root, (sysctl vm.nr_hugepages=|echo )${all + 1_000_000}\\b`,
    ),
  );
});

test('a size that is no whole number of pages, or no page’s, is refused with the reason', () => {
  expect(() => createSharedMemory('huge', PAGE + 4096, { hugePageBytes: PAGE })).toThrowError(
    /EINVAL\n.*2101248 bytes is not a multiple of a huge page, 2097152 bytes/,
  );
  expect(() => createSharedMemory('huge', 64 * PAGE, { hugePageBytes: 4 * PAGE })).toThrowError(
    /memfd_create on memfd huge: E\w+\n.*this host has no huge pages of 8 MiB/,
  );
});
