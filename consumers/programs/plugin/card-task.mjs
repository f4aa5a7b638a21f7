import * as vfio from 'tsvisor/vfio';

export const start = () => ({ message: () => `the task found ${Object.keys(vfio).length} names`, stop() {} });
