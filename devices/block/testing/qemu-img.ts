import { spawnSync } from 'node:child_process';

/** Whether this machine has qemu-img. */
export const hasQemuImg: boolean = spawnSync('qemu-img', ['--version']).status === 0;

const required = (process.env.TSVISOR_REQUIRED_TIERS ?? '').split(',');
if (!hasQemuImg && required.includes('qemu-img'))
  throw new Error('tests with qemu-img are left out, but TSVISOR_REQUIRED_TIERS asks for them');
