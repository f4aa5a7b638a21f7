import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect, test } from 'vitest';
import { SysError } from '../../sys/error.js';
import { readPciFunction } from './inventory/index.js';
import { hostProvider } from './provider.js';
import { FakeHost, FakeKernel, type FakeVgpuCard } from './testing/index.js';
import { listVfTypes, readVfTypes } from './vf-type.js';

const [PF, VF, OTHER] = ['0000:41:00.0', '0000:41:00.4', '0000:41:00.5'];
const CURRENT = `bus/pci/devices/${VF}/nvidia/current_vgpu_type`;
const CARD: FakeVgpuCard = {
  address: PF,
  memory: 48,
  types: [
    { id: 1148, name: 'NVIDIA L40S-8Q', memory: 8 },
    { id: 1150, name: 'NVIDIA L40S-24Q', memory: 24 },
    { id: 1152, name: 'NVIDIA L40S-48Q', memory: 48 },
  ],
  vfs: { [VF]: 91, [OTHER]: 92 },
};

function world() {
  const host = FakeHost.create();
  const provider = hostProvider({
    system: new FakeKernel(host.roots.dev),
    sysfs: host.sysfs,
    roots: host.roots,
  });
  host.addVgpuCard(CARD);
  const current = () => host.read(`sys/${CURRENT}`).trim();
  const typeWrites = () => host.writes.filter((each) => each.includes('vgpu_type'));
  return { host, provider, current, typeWrites, [Symbol.dispose]: () => host[Symbol.dispose]() };
}

function messageOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    if (error instanceof SysError) return error.message;
    throw error;
  }
  throw new Error('it did not fail');
}

test.each(['NVIDIA L40S-24Q', 'L40S-24Q', '1150'])(
  'vgpu-type=%s makes a VF a vGPU as long as it is assigned, and its driver keeps it',
  (name) => {
    using made = world();
    expect(made.provider.checkOptions?.(VF, { 'vgpu-type': name })).toBeUndefined();
    const device = made.provider.resolve(VF, { 'vgpu-type': name });
    expect(device).toMatchObject({ name: VF, group: 91, cdev: 'vfio0' });
    expect(device.description).toMatch(
      /driver nvidia, group 91, vfio0, .*VF of 0000:41:00\.0, vGPU type 1150/,
    );
    expect(made.current()).toBe('1150');
    expect(readVfTypes(made.host.sysfs.pciDevice(OTHER))?.creatable.map(({ id }) => id)).toEqual([
      1148, 1150,
    ]);
    device[Symbol.dispose]();
    expect(made.typeWrites()).toEqual([
      expect.stringMatching(/nvidia\/current_vgpu_type=1150$/),
      expect.stringMatching(/nvidia\/current_vgpu_type=0$/),
    ]);
    expect(made.host.writes).toHaveLength(2);
    expect(readVfTypes(made.host.sysfs.pciDevice(VF))).toEqual({
      current: 0,
      creatable: CARD.types.map(({ id, name }) => ({ id, name })),
    });
  },
);

test('a type that does not fit is refused with the attribute and those that would; one for a full card with that', () => {
  using made = world();
  const attribute = (vf: string) => new RegExp(`${vf}/nvidia/creatable_vgpu_types`);
  using _first = made.provider.resolve(OTHER, { 'vgpu-type': 'L40S-24Q' });
  const message = messageOf(() => made.provider.resolve(VF, { 'vgpu-type': 'L40S-48Q' }));
  expect(message).toMatch(/^set vGPU type on 0000:41:00\.4 to L40S-48Q: EINVAL\n/);
  expect(message).toMatch(attribute(VF));
  expect(message).toMatch(/those that would fit: NVIDIA L40S-8Q \(1148\), NVIDIA L40S-24Q \(1150\)$/);
  made.host.file(`sys/devices/pci0000:00/${VF}/nvidia/creatable_vgpu_types`, 'ID : vGPU Name\n');
  expect(messageOf(() => made.provider.resolve(VF, { 'vgpu-type': 'L40S-8Q' }))).toMatch(
    /ENOSPC\n.*creatable_vgpu_types is empty: nothing is left of the card$/,
  );
});

test('a VF that has a type is another’s: it is used as it is, or refused a second one, and keeps it', () => {
  using made = world();
  made.host.sysfs.write(made.host.sysfs.path(CURRENT), '1148\n');
  expect(messageOf(() => made.provider.resolve(VF, { 'vgpu-type': 'L40S-8Q' }))).toMatch(
    /EBUSY\n.*has type 1148: leave the option out to use it as it is, or: echo 0 > .*nvidia\/current_vgpu_type$/,
  );
  const device = made.provider.resolve(VF, {});
  device[Symbol.dispose]();
  expect(made.current()).toBe('1148');
});

test('a VF without a type is refused with the option and the types, not with commands for vfio-pci', () => {
  using made = world();
  const message = messageOf(() => made.provider.resolve(VF, {}));
  expect(message).toMatch(
    /^attach on 0000:41:00\.4: EBUSY\n.*option vgpu-type=NAME .*NVIDIA L40S-8Q \(1148\)/,
  );
  expect(message).not.toMatch(/vfio-pci/);
});

test.each([
  [
    'the driver refuses the type',
    (host: FakeHost) => host.failing.set('current_vgpu_type', 'EIO'),
    /write on .*current_vgpu_type \('1148'\): EIO\n.*would fit: NVIDIA L40S-8Q/,
    1,
  ],
  [
    'another member of its group is the host’s',
    (host: FakeHost) => host.addPci({ address: '0000:41:00.6', driver: 'snd_hda_intel', group: 91 }),
    /VFIO_GROUP_GET_STATUS .*EPERM/,
    2,
  ],
  ['the descriptor that is given is none', () => {}, /fd 77/, 2],
] as const)('where %s, the type is taken back', (what, arrange, message, writes) => {
  using made = world();
  arrange(made.host);
  const options = { 'vgpu-type': 'L40S-8Q', ...(what.includes('descriptor') && { 'cdev-fd': '77' }) };
  expect(messageOf(() => made.provider.resolve(VF, options))).toMatch(message);
  expect(made.current()).toBe('0');
  expect(made.typeWrites()).toHaveLength(writes);
});

test('a type that the driver does not take back is an error with the attribute and its errno', () => {
  using made = world();
  const device = made.provider.resolve(VF, { 'vgpu-type': 'L40S-8Q' });
  made.host.failing.set('current_vgpu_type', 'EPERM');
  expect(messageOf(() => device[Symbol.dispose]())).toMatch(
    /write on .*nvidia\/current_vgpu_type \('0'\): EPERM\n.*keeps its type/,
  );
});

test('a VF that has gone in the meantime has no type to take back', () => {
  using made = world();
  const device = made.provider.resolve(VF, { 'vgpu-type': 'L40S-8Q' });
  rmSync(dirname(made.host.sysfs.path(CURRENT)), { recursive: true });
  device[Symbol.dispose]();
  expect(made.typeWrites()).toHaveLength(1);
});

test.each([
  ['a header, blanks and a long line of types', ' ID    : vGPU Name \n\n  7 :  NVIDIA A-1Q \n8:B\n', [7, 8]],
  ['nothing', '', []],
  ['no header', '1428 : NVIDIA H200X-141C\n1414 : NVIDIA H200X-1-18C', [1428, 1414]],
])('the list of types can have %s', (_what, text, ids) => {
  using made = world();
  made.host.file(`sys/devices/pci0000:00/${VF}/nvidia/creatable_vgpu_types`, text);
  expect(readVfTypes(made.host.sysfs.pciDevice(VF))?.creatable.map(({ id }) => id)).toEqual(ids);
});

test.each([
  ['creatable_vgpu_types', 'seven : A', /line 1, 'seven : A', is not of the form ID : NAME/],
  ['creatable_vgpu_types', '7 A', /is not of the form/],
  ['creatable_vgpu_types', '0 : A', /is not of the form/],
  ['creatable_vgpu_types', '4294967296 : A', /is not of the form/],
  ['creatable_vgpu_types', '7 : A\n7 : B', /line 2, '7 : B', has the ID of another line/],
  ['creatable_vgpu_types', `7 : ${'A'.repeat(200)}`, /a name of 200 characters/],
  [
    'creatable_vgpu_types',
    Array.from({ length: 300 }, (_, i) => `${i + 1} : A`).join('\n'),
    /more than 256 types/,
  ],
  ['creatable_vgpu_types', ' '.repeat(70_000), /more than 65536 bytes/],
  ['creatable_vgpu_types', '\u001b[2J', /\[2J', is not of the form/],
  ['current_vgpu_type', '', /'' is no ID of a type/],
  ['current_vgpu_type', '-1', /'-1' is no ID/],
  ['current_vgpu_type', '99999999999', /is no ID/],
])('%s of %j is an error with the attribute, wherever it is read', (attribute, text, problem) => {
  using made = world();
  made.host.file(`sys/devices/pci0000:00/${VF}/nvidia/${attribute}`, text);
  for (const options of [{}, { 'vgpu-type': 'L40S-8Q' }]) {
    const message = messageOf(() => made.provider.resolve(VF, options));
    expect(message).toMatch(problem);
    expect(message).not.toContain('\u001b');
    expect(message).toMatch(new RegExp(`^read on .*${VF}/nvidia/${attribute}: EPROTO`));
  }
  expect(made.host.writes).toEqual([]);
  const [record, other] = listVfTypes(made.host.sysfs);
  expect([record?.types, record?.problem]).toEqual([undefined, expect.stringMatching(problem)]);
  expect(other?.types?.creatable).toHaveLength(3);
});

test.each([
  [PF, /ENOTSUP\n.*types are those of its VFs, 0000:41:00\.4, 0000:41:00\.5$/],
  [
    '0000:01:00.0',
    /ENOTSUP\n.*it has none; the vendor's tool makes them, or: echo N > .*0000:01:00\.0\/sriov_numvfs$/,
  ],
  ['0000:01:00.1', /ENOTSUP\n.*types are those of VFs, and it is none$/],
  ['0000:01:10.0', /ENOTSUP\n.*offers no types of vGPUs for its VFs$/],
])('%s can have no type, and the error says what can', (address, problem) => {
  using made = world();
  made.host.addPci({
    address: '0000:01:00.0',
    driver: 'igb',
    group: 26,
    attributes: { sriov_numvfs: '0\n' },
  });
  made.host.addPci({ address: '0000:01:00.1', driver: 'e1000e', group: 27 });
  made.host.addPci({ address: '0000:01:10.0', driver: 'igbvf', group: 28, physfn: '0000:01:00.0' });
  expect(messageOf(() => made.provider.resolve(address, { 'vgpu-type': 'L40S-8Q' }))).toMatch(problem);
});

test.each([
  [VF, { 'vgpu-type': '' }, /vgpu-type: a type is missing/],
  [VF, { 'vgpu-type': 'A', bind: 'vfio-pci' }, /leave bind= out/],
  ['mdev:mtty-2', { 'vgpu-type': 'A' }, /vgpu-type: is an option of a PCI function/],
])('%s with %j is refused before anything is looked at', (address, options, problem) => {
  using made = world();
  expect(made.provider.checkOptions?.(address, options)).toMatch(problem);
});

test('a VF’s record says which types it could have, which it has, and that it needs one first', () => {
  using made = world();
  const read = () => readPciFunction(VF, { sysfs: made.host.sysfs, roots: made.host.roots });
  expect(read().assignability.state).toBe('needs-type');
  expect(read().vfTypes).toMatchObject({
    address: VF,
    physfn: PF,
    types: { current: 0 },
    problem: undefined,
  });
  using _device = made.provider.resolve(VF, { 'vgpu-type': 'L40S-8Q' });
  expect(read().assignability.state).toBe('ready');
  expect(read().vfTypes?.types).toEqual({ current: 1148, creatable: [] });
});
