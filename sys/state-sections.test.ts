import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errno } from './errno.js';
import { SysError } from './error.js';
import { decodeSections, encodeSections, SectionReader, type StateSection } from './state-sections.js';

const section = (name: string, data: readonly number[], version = 1): StateSection => ({
  name,
  version,
  data: Uint8Array.from(data),
});
const STATE = [section('vcpu 0/regs', [1, 2, 3]), section('vm/clock', []), section('ram', [9], 7)];
const plain = (sections: readonly StateSection[]) =>
  sections.map(({ name, version, data }) => [name, version, ...data]);
const decode = (bytes: Uint8Array) => decodeSections(bytes, 'file.state');

test('sections come back as they were encoded', () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9 /.-]{0,20}$/).filter((text) => text !== 'end');
  const sections = fc.uniqueArray(
    fc.record({
      name,
      version: fc.integer({ min: 0, max: 0xffff_ffff }),
      data: fc.uint8Array({ maxLength: 50 }),
    }),
    { selector: (each) => each.name, maxLength: 8 },
  );
  fc.assert(
    fc.property(sections, (list) => {
      expect(plain(decode(encodeSections(list)))).toEqual(plain(list));
    }),
  );
});

test('a file that was cut off is EBADMSG at each length, and the error says after which section', () => {
  const bytes = encodeSections(STATE);
  for (let length = 8; length < bytes.length; length++)
    expect(() => decode(bytes.subarray(0, length)), `${length}`).toThrowError(/load on file\.state: EBADMSG/);
  expect(() => decode(bytes.subarray(0, 60))).toThrowError(/it ends after section 'vcpu 0\/regs'/);
});

test('a file of something else, and one of a format of the future, are told apart', () => {
  expect(() => decode(Buffer.from('\x7fELF and more'))).toThrowError(/EINVAL\n.*it is no saved state/);
  expect(() => decode(new Uint8Array(0))).toThrowError(/EINVAL/);
  const bytes = encodeSections(STATE);
  bytes[8] = 2;
  expect(() => decode(bytes)).toThrowError(/ENOTSUP\n.*its format is 2, and this version reads 1/);
});

test('100,000 damaged files are a clear error each, or say what they said before', () => {
  const good = encodeSections(STATE);
  const before = plain(decode(good));
  const edit = fc.record({ at: fc.nat(good.length - 1), value: fc.nat(255) });
  const damage = fc.record({
    edits: fc.array(edit, { maxLength: 4 }),
    cut: fc.nat(good.length),
    more: fc.nat(3),
  });
  const outcome = (bytes: Uint8Array): unknown => {
    try {
      return plain(decode(bytes));
    } catch (error) {
      if (error instanceof SysError)
        return [errno.EINVAL, errno.ENOTSUP, errno.EBADMSG].includes(error.errno);
      throw error;
    }
  };
  fc.assert(
    fc.property(damage, ({ edits, cut, more }) => {
      const bytes = Uint8Array.from(good);
      for (const { at, value } of edits) bytes[at] = value;
      const damaged = Buffer.concat([bytes.subarray(0, cut), new Uint8Array(more)]);
      const isSame = Buffer.compare(damaged, good) === 0;
      const seen = outcome(damaged);
      if (isSame) expect(seen).toEqual(before);
      // A checksum does not cover a section's version.
      else if (seen !== true)
        expect((seen as unknown[][]).map(([name]) => name)).toEqual(before.map(([name]) => name));
    }),
    { numRuns: 100_000 },
  );
});

test('two sections of one name, and names that are none, are refused on both sides', () => {
  expect(() => encodeSections([section('a', []), section('a', [])])).toThrowError(RangeError);
  for (const name of ['', 'end', 'ä', 'x'.repeat(65)])
    expect(() => encodeSections([section(name, [])]), name).toThrowError(RangeError);
  const once = encodeSections([section('a', [])]);
  const [header, body, end] = [once.subarray(0, 12), once.subarray(12, 33), once.subarray(33)];
  expect(() => decode(Buffer.concat([header, body, body, end]))).toThrowError(/two sections 'a'/);
  expect(() => decode(Buffer.concat([header, body, end, body]))).toThrowError(/21 bytes follow its end/);
});

test('a reader names a missing section, a newer one, one of another length, and one that nobody takes', () => {
  const reader = new SectionReader(STATE, 'file.state');
  expect(() => reader.take('vcpu 1/regs', 1)).toThrowError(/ENOENT\n.*section 'vcpu 1\/regs' is missing/);
  expect(() => reader.take('ram', 6)).toThrowError(
    /ENOTSUP\n.*section 'ram' is version 7; this reads up to 6/,
  );
  expect(() => reader.take('ram', 7, 2)).toThrowError(/EINVAL\n.*section 'ram' has 1 bytes, and not 2/);
  expect([...reader.take('ram', 7, 1), reader.has('ram')]).toEqual([9, false]);
  reader.take('vm/clock', 1);
  expect(() => reader.finish()).toThrowError(/ENOTSUP\n.*nothing here takes section 'vcpu 0\/regs'/);
  reader.take('vcpu 0/regs', 1);
  reader.finish();
});

test("what loads a section fails with its own error and the section's name", () => {
  const load = (error: Error) => () =>
    new SectionReader(STATE, 'file.state').load('ram', 7, 1, throwing(error));
  const refused = new SysError({ call: 'KVM_SET_REGS', target: 'vcpu 0', errno: errno.EINVAL, hint: 'why' });
  const throwing = (error: Error) => () => {
    throw error;
  };
  expect(load(refused)).toThrowError(
    /KVM_SET_REGS on vcpu 0: EINVAL\n {2}hint: while section 'ram' of file\.state was loaded; why/,
  );
  expect(load(new RangeError('5 bytes'))).toThrowError(/load on file\.state: EINVAL/);
  expect(load(new TypeError('a mistake'))).toThrowError(TypeError);
});
