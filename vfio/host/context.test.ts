import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { explain, groupPath, hostContext, vfioPath } from './context.js';
import { HOST_ROOTS } from './roots.js';
import { linux } from './system.js';

const cause = new Error('below');
const refused = new SysError({ call: 'open', target: '/dev/vfio/26', errno: errno.EACCES, cause });

test('an error is explained with its call, target, errno and cause', () => {
  const explained = explain(refused, ({ code }) => `the hint for ${code}`);
  expect(explained).toBeInstanceOf(SysError);
  expect(explained).toMatchObject({
    ...{ call: 'open', target: '/dev/vfio/26', errno: errno.EACCES, hint: 'the hint for EACCES' },
    cause,
  });
});

test('an error without a hint, or one that is not of a system call, stays what it is', () => {
  expect(explain(refused, () => undefined)).toBe(refused);
  const other = Object.assign(new Error('EACCES'), { code: 'EACCES' });
  expect(explain(other, () => 'a hint')).toBe(other);
});

test('without other wishes, the host is this one', () => {
  expect(hostContext()).toMatchObject({ system: linux, roots: HOST_ROOTS });
});

test('the files of VFIO are in one folder of the host’s /dev, and groups without an IOMMU have names of their own', () => {
  const roots = { dev: '/host/dev', sys: '/host/sys', proc: '/host/proc', modules: '/host/modules' };
  const context = hostContext({ roots });
  expect(vfioPath(context, 'devices', 'vfio3')).toBe('/host/dev/vfio/devices/vfio3');
  const group = { number: 26, members: [], reservedRegions: [] };
  expect(groupPath(context, { ...group, isNoiommu: false })).toBe('/host/dev/vfio/26');
  expect(groupPath(context, { ...group, isNoiommu: true })).toBe('/host/dev/vfio/noiommu-26');
});
