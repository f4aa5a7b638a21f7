import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { VfioCore } from '../../vfio/core/core.js';
import { VFIO_TYPE1v2_IOMMU } from '../../vfio/uapi.js';
import { InlineEventThread } from '../testing/inline-event-thread.js';
import { start } from './card-task.js';
import { createTestCardDriver } from './driver.js';
import { REG_SCRATCH, REGISTER_BAR } from './spec.js';

const TASK = new URL('test:board-task');

/** Cards of a core, open in containers of their own. */
class Cards implements Disposable {
  readonly #scope: Scope;
  readonly #provider;

  constructor() {
    using scope = new Scope();
    const eventThread = scope.own(new InlineEventThread(new Map([[TASK.href, start]])));
    const core = scope.own(new VfioCore());
    scope.own(core.registerVendorDriver(createTestCardDriver(TASK), { eventThread }));
    this.#provider = core.provider;
    this.#scope = scope.move();
  }

  open(options: Readonly<Record<string, string>>) {
    const device = this.#scope.own(
      this.#provider.resolve('testcard', { reset: 'none', ram: '4K', ...options }),
    );
    const group = this.#scope.own(this.#provider.groups.openGroup(device.group));
    const container = this.#scope.own(this.#provider.groups.openContainer());
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    const file = this.#scope.own(group.getDeviceFd(device.name));
    const at = file.getRegionInfo(REGISTER_BAR).offset + REG_SCRATCH;
    return {
      device,
      group,
      file,
      get scratch() {
        const data = new Uint8Array(4);
        file.read(at, data);
        return data[0];
      },
      set scratch(value) {
        file.write(at, Uint8Array.of(value ?? 0, 0, 0, 0));
      },
    };
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

test('a hot reset of a card resets all cards of its board, and no other one', () => {
  using cards = new Cards();
  const [one, two, other] = [{ board: 'a' }, { board: 'a' }, { board: 'b' }].map((options) =>
    cards.open(options),
  );
  for (const card of [one, two, other]) if (card !== undefined) card.scratch = 7;
  const names = one?.file.getPciHotResetInfo?.().devices.map(({ address }) => address);
  expect(names).toEqual([one?.device.name, two?.device.name]);
  expect(() => one?.file.pciHotReset?.([one.group])).toThrowError(/EINVAL|EPERM/);
  expect([one?.scratch, two?.scratch]).toEqual([7, 7]);
  one?.file.pciHotReset?.([one.group, two?.group].filter((group) => group !== undefined));
  expect([one?.scratch, two?.scratch, other?.scratch]).toEqual([0, 0, 7]);
});

test('a card that fails to reset keeps its whole board from a reset, and the error names it', () => {
  using cards = new Cards();
  const one = cards.open({ board: 'a' });
  const two = cards.open({ board: 'a', fault: 'reset-fails' });
  one.scratch = 7;
  const reset = () => one.file.pciHotReset?.([one.group, two.group]);
  expect(reset).toThrowError(new RegExp(`EIO[^]*${two.device.name}: the card has the fault reset-fails`));
  expect(one.scratch).toBe(7);
});

test('a card without a board has no hot reset', () => {
  using cards = new Cards();
  const one = cards.open({});
  expect(() => one.file.getPciHotResetInfo?.()).toThrowError(/ENOTTY/);
});
