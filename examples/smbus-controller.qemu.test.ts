/** Linux's own drivers against a device in TypeScript, and three bugs that they meet. docs/driver-tests.md explains it. */
import { bootGuest, type Guest, RegisterWatch } from 'tsvisor/testing';
import { describe, expect, test } from 'vitest';
import { type SmbusBug, SmbusController, smbusRegisters } from './smbus-controller.js';

const NEW_THERMOMETER = 'echo lm75 0x48 > /sys/bus/i2c/devices/i2c-0/new_device';
const TEMPERATURE = 'cat /sys/class/hwmon/hwmon0/temp1_input'; // in thousandths of a degree

/** The registers' watch, for a controller; its driver looks whether a transfer is over for a fifth of a second. */
const watchBus = (bug?: SmbusBug) =>
  new RegisterWatch({ registers: smbusRegisters(bug), spin: { reads: 10 } });

/** Boots a guest with the controller, and loads the drivers of the bus and of the thermometer. */
async function bootWithBus(watch: RegisterWatch, bug?: SmbusBug): Promise<Guest> {
  const guest = await bootGuest({
    devices: [watch.around(new SmbusController(bug))],
    modules: ['i2c-i801', 'lm75'],
  });
  const loaded = await guest.run('modprobe i2c-i801 && modprobe lm75');
  if (loaded.status !== 0) console.log(loaded.output, guest.console);
  return guest;
}

describe('an SMBus controller under i2c-i801', { timeout: 90_000 }, () => {
  test('lm75 reads the temperature by the registers that the data sheet names', async () => {
    const watch = watchBus();
    await using guest = await bootWithBus(watch);
    expect(await guest.run(NEW_THERMOMETER)).toEqual({ status: 0, output: '' });
    watch.trace.clear();
    expect(await guest.run(TEMPERATURE)).toEqual({ status: 0, output: '21500\n' });
    expect(watch.trace.steps()).toEqual([
      ...['read HST_STS 0x0', 'read AUX_STS 0x0', 'read AUX_CTL 0x0', 'write AUX_CTL 0x0'],
      ...['write HST_ADD 0x91', 'write HST_CMD 0x0', 'write HST_CNT 0x4c'],
      ...['read HST_STS 0x2', 'read HST_DAT0 0x15', 'read HST_DAT1 0x80', 'write HST_STS 0xde'],
    ]);
    expect(watch.describe()).toBe('');
  });

  test('a register that the controller lacks is in the burn-down', async () => {
    const watch = watchBus('lacks-data');
    await using guest = await bootWithBus(watch, 'lacks-data');
    await guest.run(NEW_THERMOMETER);
    expect((await guest.run(TEMPERATURE)).output).toBe('-500\n'); // wrong, and nothing in the guest says so
    expect(watch.report().unmodelled.map(({ name }) => name)).toEqual(['HST_DAT0']);
  });

  test('a controller that stays busy makes the driver spin on its status', async () => {
    const watch = watchBus('stays-busy');
    await using guest = await bootWithBus(watch, 'stays-busy');
    await guest.run(NEW_THERMOMETER);
    expect(guest.console).toContain("SMBus is busy, can't use it!");
    // Busy, and an error: the driver has looked for memory modules first, of which there are none.
    expect(watch.report().spins[0]).toMatchObject({ name: 'HST_STS', value: 0x05 });
  });

  test('bytes in the wrong order are in the trace', async () => {
    const watch = watchBus('swaps-bytes');
    await using guest = await bootWithBus(watch, 'swaps-bytes');
    await guest.run(NEW_THERMOMETER);
    watch.trace.clear();
    expect((await guest.run(TEMPERATURE)).output).toBe('-128000\n');
    expect(watch.trace.reads('HST_DAT0')).toEqual([0x80]); // 21.5 degrees are 0x1580, high byte first
  });
});
