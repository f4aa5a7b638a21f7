import { expect, test } from 'vitest';
import * as kvm from '../kvm/uapi.js';
import * as vcpu from '../kvm/uapi-vcpu.js';
import { checkedResult, type Request } from '../sys/ioctl.js';
import * as vfio from '../vfio/host/structs.js';
import * as iommufd from '../vfio/host/structs-iommufd.js';
import * as type1 from '../vfio/host/structs-type1.js';

const isRequest = (value: unknown): value is Request =>
  typeof value === 'object' && value !== null && 'hasResult' in value;

const requests = [kvm, vcpu, vfio, iommufd, type1].flatMap((table) => Object.values(table).filter(isRequest));

test('a positive result is a success only of the requests that return a descriptor, a number or a count', () => {
  expect(
    requests
      .filter(({ hasResult }) => hasResult)
      .map(({ name }) => name)
      .sort(),
  ).toEqual([
    'KVM_CHECK_EXTENSION',
    'KVM_CREATE_VCPU',
    'KVM_CREATE_VM',
    'KVM_GET_API_VERSION',
    'KVM_GET_MSRS',
    'KVM_GET_TSC_KHZ',
    'KVM_GET_VCPU_MMAP_SIZE',
    'KVM_RESET_DIRTY_RINGS',
    'KVM_SET_MSRS',
    'KVM_SIGNAL_MSI',
    'VFIO_CHECK_EXTENSION',
    'VFIO_DEVICE_GET_GFX_DMABUF',
    'VFIO_DEVICE_SET_IRQS',
    'VFIO_GET_API_VERSION',
    'VFIO_GROUP_GET_DEVICE_FD',
  ]);
  expect(requests.length).toBeGreaterThan(80);
  for (const request of requests) {
    expect(checkedResult(0, request, 'it')).toBe(0);
    if (request.hasResult) expect(checkedResult(3, request, 'it')).toBe(3);
    else
      expect(() => checkedResult(3, request, 'it')).toThrowError(
        `${request.name} on it: EPROTO\n  hint: the kernel returned 3, and only 0 is a success`,
      );
  }
});
