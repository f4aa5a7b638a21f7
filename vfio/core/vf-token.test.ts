import { afterEach, beforeEach, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '../feature.js';
import type { RecordingDeviceOptions } from '../testing/recording-device.js';
import { World, type WorldDevice } from '../testing/world.js';
import type { CoreDeviceFile } from './device-file.js';
import { CoreIommufdFile } from './iommufd.js';

const T = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';
const U = '5b1d2ff5-7d2c-4a6b-9f0f-0d0fdc8a1cf3';
const PF = '0000:02:00.0';

let world: World;
let scope: Scope;
beforeEach(() => {
  world = new World();
  scope = new Scope();
});
afterEach(() => {
  scope[Symbol.dispose]();
  world.end();
});

function device(name: string, pci: RecordingDeviceOptions['pci']): WorldDevice {
  const made = world.device(pci === undefined ? { name } : { name, pci });
  scope.defer(() => world.remove(made));
  return made;
}

const physfn = (): WorldDevice => device(PF, { isPhysfn: true });
const virtfn = (): WorldDevice => device('0000:02:10.0', { physfn: PF });

/** Opens a device by its group, with what follows its name; the group stays open with the file. */
function open(made: WorldDevice, options = ''): Disposable & { readonly file: CoreDeviceFile } {
  using inner = new Scope();
  const contained = world.contain(made);
  inner.defer(() => contained.close());
  const name = `${made.device.name}${options}`;
  const file = inner.own(world.core.run(contained.group.getDeviceFdSteps(name)));
  const owned = inner.move();
  return { file, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

/** What opening by group, and binding by cdev, answers. */
function answers(made: WorldDevice, token?: string): string[] {
  const codes: string[] = [];
  const attempt = (body: () => Disposable): void => {
    try {
      body()[Symbol.dispose]();
      codes.push('ok');
    } catch (error) {
      codes.push(/: (E\w+)/.exec((error as Error).message)?.[1] ?? String(error));
    }
  };
  attempt(() => open(made, token === undefined ? '' : ` vf_token=${token}`));
  attempt(() => {
    using inner = new Scope();
    const iommufd = inner.own(CoreIommufdFile.open(world.core.environment));
    const file = inner.own(world.openCdev(made.device.cdev));
    file.bindIommufd(iommufd, token);
    return inner.move();
  });
  return codes;
}

const setToken = (file: CoreDeviceFile, vfToken: string): unknown =>
  file.deviceFeature(VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, { vfToken });

test('a VF of a registered physical function opens with its token only: EACCES without, and with another', () => {
  const [pf, vf] = [physfn(), virtfn()];
  using owner = open(pf);
  for (const token of [undefined, T]) expect(answers(vf, token)).toEqual(['EACCES', 'EACCES']);
  setToken(owner.file, T);
  expect(answers(vf, T)).toEqual(['ok', 'ok']);
  expect(answers(vf, T.toUpperCase())).toEqual(['ok', 'ok']);
  for (const token of [undefined, U]) expect(answers(vf, token)).toEqual(['EACCES', 'EACCES']);
});

test('a physical function keeps the token it is opened with, and while its VFs are open takes no other', () => {
  const [pf, vf] = [physfn(), virtfn()];
  expect(answers(pf)).toEqual(['ok', 'ok']);
  open(pf, ` vf_token=${T}`)[Symbol.dispose]();
  {
    using user = open(vf, ` vf_token=${T}`);
    expect(user.file.isOpen).toBe(true);
    expect(answers(pf)).toEqual(['EACCES', 'EACCES']);
    expect(answers(pf, U)).toEqual(['EACCES', 'EACCES']);
    expect(answers(pf, T)).toEqual(['ok', 'ok']);
  }
  expect(answers(pf, U)).toEqual(['ok', 'ok']);
  expect(answers(vf, U)).toEqual(['ok', 'ok']);
});

test('a token is EINVAL for a VF whose physical function is elsewhere, and for a function without VFs', () => {
  const vf = virtfn();
  const lone = device('0000:03:00.0', {});
  for (const made of [vf, lone]) {
    expect(answers(made)).toEqual(['ok', 'ok']);
    expect(answers(made, T)).toEqual(['EINVAL', 'EINVAL']);
  }
});

test('a device that is not PCI has no device of that name with a token, and BIND with one is EINVAL', () => {
  expect(answers(device('mdev', undefined), T)).toEqual(['ENODEV', 'EINVAL']);
});

test('GET_DEVICE_FD takes spaces around one vf_token, and is EINVAL for other options, a second token and no UUID', () => {
  const [pf] = [physfn()];
  for (const options of [' ', `  vf_token=${T}  `]) open(pf, options)[Symbol.dispose]();
  const wrong = [
    ` vf_token=${T} vf_token=${T}`,
    ' vf_token=x',
    ` vf_token=${T}0`,
    ' other',
    ` ${T}`,
    ` vf_token=${T.replace('8', 'g')}`,
  ];
  for (const options of wrong) expect(() => open(pf, options)).toThrowError(/EINVAL/);
  expect(() => open(pf, `x vf_token=${T}`)).toThrowError(/ENODEV/);
});

test('the feature of the token can be set, never read; a device that is no physical function lacks it', () => {
  const feature = VFIO_DEVICE_FEATURE_PCI_VF_TOKEN;
  const probe = VFIO_DEVICE_FEATURE_PROBE;
  {
    using owner = open(physfn());
    expect(owner.file.deviceFeature(probe | VFIO_DEVICE_FEATURE_SET | feature)).toEqual({});
    for (const flags of [VFIO_DEVICE_FEATURE_GET, probe | VFIO_DEVICE_FEATURE_GET])
      expect(() => owner.file.deviceFeature(flags | feature)).toThrowError(/EINVAL/);
    expect(() => owner.file.deviceFeature(VFIO_DEVICE_FEATURE_SET | feature)).toThrowError(/EINVAL/);
    expect(() => setToken(owner.file, 'no uuid')).toThrowError(/EINVAL/);
  }
  using other = open(device('0000:03:00.0', {}));
  expect(() => setToken(other.file, T)).toThrowError(/ENOTTY/);
});

test('a physical function that is unregistered leaves the next VF without a token', () => {
  const pf = world.device({ name: PF, pci: { isPhysfn: true } });
  world.remove(pf);
  expect(answers(virtfn())).toEqual(['ok', 'ok']);
});
