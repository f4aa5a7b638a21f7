/** What L1 has for `*.served.lab.test.ts`. */
export const SERVED_CARDS: readonly string[] = [
  'testcard,vectors=16,msi=8,name=card',
  'testcard,reset=pm,express=off,name=pm',
  'testcard,reset=af,name=af',
  // Without any reset: none of its own, and no bus of its own.
  'testcard,reset=none,port=off,name=bare',
  'testcard,port=off,name=dead',
  'testcard,fault=lying-bar,name=liar',
  'virtio-net,name=nic',
];
