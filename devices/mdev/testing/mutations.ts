/** Wrong states: what a peer may send in place of one. */
import fc from 'fast-check';

/** One way in which a state is wrong, most often a little: its first bytes are the most interesting. */
export const mutationOf = (state: Uint8Array): fc.Arbitrary<Uint8Array> => {
  const near = fc.oneof(fc.nat(Math.min(state.length, 96) - 1), fc.nat(state.length - 1));
  const edits = fc.array(fc.tuple(near, fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff))), {
    minLength: 1,
    maxLength: 6,
  });
  const edited = edits.map((all) => {
    const wrong = Uint8Array.from(state);
    for (const [at, value] of all) wrong[at] = value;
    return wrong;
  });
  return fc.oneof(
    { weight: 6, arbitrary: edited },
    { weight: 1, arbitrary: fc.nat(state.length).map((length) => state.slice(0, length)) },
    {
      weight: 1,
      arbitrary: fc.tuple(edited, fc.nat(state.length)).map(([wrong, length]) => wrong.slice(0, length)),
    },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }) },
  );
};
