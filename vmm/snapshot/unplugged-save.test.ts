/** Devices that cannot be saved leave the machine for a moment, or the save fails with everything as it was. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Mapping } from '../../sys/mapping.js';
import { type DeviceConfig, parseConfig, parseDevices } from '../config.js';
import { savedConfig } from './config.js';
import { writeSnapshot } from './folder.js';
import { Restoring } from './restore.js';
import { saveUnplugged, type UnpluggableMachine, type UnsavableDevice } from './unplugged-save.js';

const busy = () =>
  new SysError({
    call: 'detach',
    target: 'PCI slot 5',
    errno: errno.EBUSY,
    hint: 'the guest refuses: it is in use',
  });

/** Slot 3 can be saved; 4 and 5 cannot, and 4 has two functions. */
class FakeMachine implements UnpluggableMachine {
  list: DeviceConfig[] = [
    ...parseDevices([
      { address: 'virtio-net', slot: 3 },
      { address: '0000:01:00.0', slot: 4 },
      { address: '0000:01:00.1', slot: 4, function: 1 },
      { address: 'mdev:type', slot: 5 },
    ]),
  ];
  isPaused = false;
  readonly told: string[] = [];
  /** What each call fails with, by its name. */
  readonly failures = new Map<string, Error>();

  #tell(what: string): void {
    this.told.push(what);
    const failure = this.failures.get(what);
    if (failure !== undefined) throw failure;
  }

  async unsavable(): Promise<readonly UnsavableDevice[]> {
    return this.list
      .filter(({ slot }) => slot !== 3)
      .map(({ slot = 0, address }) => ({ slot, name: address, why: 'it has no migration' }));
  }

  async detach(slot: number, { timeoutMs }: { readonly timeoutMs?: number }): Promise<void> {
    this.#tell(`detach ${slot}${timeoutMs === undefined ? '' : ` within ${timeoutMs}`}`);
    this.list = this.list.filter((device) => device.slot !== slot);
  }

  devices(): readonly DeviceConfig[] {
    return this.list;
  }

  async attach(devices: readonly DeviceConfig[]): Promise<void> {
    this.#tell(`attach ${devices.map(({ address }) => address).join(' ')}`);
    this.list = [...this.list, ...devices];
  }

  async save(folder: string, unplugged: readonly DeviceConfig[]) {
    this.#tell('save');
    this.told.push(unplugged.map(({ address }) => address).join(' '));
    expect(this.list.map(({ slot }) => slot)).toEqual([3]);
    return { folder, stateBytes: 1, memoryBytes: 2, ms: 3 };
  }
}

test('each slot is asked once, and all of its functions come back after the save', async () => {
  const machine = new FakeMachine();
  await saveUnplugged(machine, '/saved', 700);
  const names = '0000:01:00.0 0000:01:00.1 mdev:type';
  expect(machine.told).toEqual([
    'detach 4 within 700',
    'detach 5 within 700',
    'save',
    names,
    `attach ${names}`,
  ]);
  expect(machine.list).toHaveLength(4);
});

test('a machine whose devices can all be saved is only saved', async () => {
  const machine = new FakeMachine();
  machine.list = machine.list.slice(0, 1);
  await saveUnplugged(machine, '/saved');
  expect(machine.told).toEqual(['save', '']);
});

test('a device that the guest does not release is named with both reasons, and the others come back', async () => {
  const machine = new FakeMachine();
  machine.failures.set('detach 5', busy());
  await expect(saveUnplugged(machine, '/saved')).rejects.toThrowError(
    /snapshot on mdev:type: EBUSY\n.*cannot be saved \(it has no migration\) and was to be unplugged: the guest refuses: it is in use/,
  );
  expect(machine.told.at(-1)).toBe('attach 0000:01:00.0 0000:01:00.1');
  expect(machine.list).toHaveLength(4);
});

test('a save that fails has its error, and the devices come back', async () => {
  const machine = new FakeMachine();
  machine.failures.set('save', new RangeError('the disk is full'));
  await expect(saveUnplugged(machine, '/saved')).rejects.toThrowError('the disk is full');
  expect(machine.list).toHaveLength(4);
});

test('devices that do not come back are named, and whether the machine is saved is said', async () => {
  for (const [failure, said] of [
    [undefined, /the machine is saved/],
    [new RangeError('the disk is full'), /it was not saved: the disk is full/],
  ] as const) {
    const machine = new FakeMachine();
    if (failure !== undefined) machine.failures.set('save', failure);
    machine.failures.set('attach 0000:01:00.0 0000:01:00.1 mdev:type', busy());
    const rejection = expect(saveUnplugged(machine, '/saved')).rejects;
    await rejection.toThrowError(/attach on 0000:01:00.0 of slot 4, .*mdev:type of slot 5: EBUSY/);
    const again = new FakeMachine();
    if (failure !== undefined) again.failures.set('save', failure);
    again.failures.set('attach 0000:01:00.0 0000:01:00.1 mdev:type', busy());
    await expect(saveUnplugged(again, '/saved')).rejects.toThrowError(said);
  }
});

test('a paused guest releases nothing: that is said at once', async () => {
  const machine = new FakeMachine();
  machine.isPaused = true;
  await expect(saveUnplugged(machine, '/saved')).rejects.toThrowError(/EBUSY\n.*is paused/);
  expect(machine.told).toEqual([]);
});

test('a restored machine has them apart, with what is chosen for their slots', () => {
  const folder = mkdtempSync(join(tmpdir(), 'unplugged-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'machine');
  const [nic, ...others] = new FakeMachine().list;
  using ram = Mapping.anonymous(1 << 20);
  writeSnapshot(
    path,
    savedConfig(parseConfig({ memory: '1M' }), [nic as DeviceConfig], others),
    [],
    ram.view,
  );
  const split = (changes = {}) => {
    using restoring = Restoring.open(path, changes);
    const names = (list: readonly DeviceConfig[] = []) => list.map(({ address }) => address);
    return [names(restoring.config.devices), names(restoring.state?.plugged)];
  };
  expect(split()).toEqual([['virtio-net'], ['0000:01:00.0', '0000:01:00.1', 'mdev:type']]);
  const devices = [
    { address: 'virtio-net', slot: 3 },
    { address: '0000:02:00.0', slot: 5 },
  ];
  expect(split({ devices })).toEqual([['virtio-net'], ['0000:02:00.0']]);
  using restoring = Restoring.open(path, { deviceOptions: { 5: { bind: 'vfio-pci' } } });
  expect(restoring.state?.plugged.at(-1)?.options).toEqual({ bind: 'vfio-pci' });
});
