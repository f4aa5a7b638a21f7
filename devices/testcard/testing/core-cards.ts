import { InlineEventThread } from '../../../sys/inline-event-thread.js';
import { Scope } from '../../../sys/scope.js';
import { VfioCore } from '../../../vfio/core/core.js';
import { VFIO_TYPE1v2_IOMMU } from '../../../vfio/uapi.js';
import { start } from '../card-task.js';
import { createTestCardDriver } from '../driver.js';
import { REG_SCRATCH, REGISTER_BAR } from '../spec.js';

const TASK = new URL('test:board-task');

/** Cards of a core, open in containers of their own. */
export class CoreCards implements Disposable {
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
