// A plug-in whose device does nothing; its event task replies with the number of names in tsvisor/vfio.
import { SysError } from 'tsvisor/vfio';

export const plugin = {
  name: 'card',
  vendorDrivers: [
    {
      name: 'card',
      types: [{ name: 'card', description: 'a card', deviceApi: 'vfio-pci', maxInstances: 1 }],
      create(_type, _uuid, _options, { eventThread }) {
        const task = eventThread.run(new URL('./card-task.mjs', import.meta.url), {});
        const hint = task.call({});
        task[Symbol.dispose]();
        throw new SysError({ call: 'create', target: 'card', errno: 5, hint });
      },
    },
  ],
};
