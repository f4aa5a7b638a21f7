/** For tests: virtio-net as a whole function, `whole-net`. @see WholeFunction */
import { createVirtioNetDriver } from '../../devices/virtio-net/index.js';
import { Scope } from '../../sys/scope.js';
import type { VendorDriver } from '../../vfio/driver.js';
import type { Plugin } from '../plugin.js';
import { WholeFunction } from './whole-function.js';

function whole(driver: VendorDriver, name: string): VendorDriver {
  const [type] = driver.types;
  if (type === undefined) throw new RangeError(`${driver.name} has no type`);
  return {
    ...driver,
    name,
    types: [{ ...type, name }],
    checkOptions: (_type, options) => driver.checkOptions?.(type, options),
    create(_type, uuid, options, environment) {
      using scope = new Scope();
      const made = scope.own(driver.create(type, uuid, options, environment));
      const ops = scope.own(new WholeFunction(made.ops));
      const owned = scope.move();
      return { ops, [Symbol.dispose]: () => owned[Symbol.dispose]() };
    },
  };
}

export const plugin: Plugin = {
  name: 'whole-function',
  vendorDrivers: [whole(createVirtioNetDriver(), 'whole-net')],
};
