import { expect, test } from 'vitest';
import { parseAttachTimes } from './attach-times.js';

const trace = `L2-END 3.12
LAB-TRACE 5.100000: lab_map: (vfio_iommu_type1_ioctl+0x4/0x18d0 [vfio_iommu_type1]) request=0x3b65
LAB-TRACE 5.100500: lab_mapped: (vfio_fops_unl_ioctl+0x2f3/0x340 [vfio] <- vfio_iommu_type1_ioctl)
LAB-TRACE 5.200000: lab_group: (vfio_group_fops_open+0x4/0xa0 [vfio])
LAB-TRACE 5.300000: lab_map: (vfio_iommu_type1_ioctl+0x4/0x18d0 [vfio_iommu_type1]) request=0x3b71
LAB-TRACE 6.300000: lab_mapped: (__x64_sys_ioctl+0x94/0xc0 <- vfio_iommu_type1_ioctl)
LAB-TRACE 6.400000: lab_call: (vfio_device_fops_unl_ioctl+0x4/0x840 [vfio])
LAB-TRACE 6.450000: lab_called: (__x64_sys_ioctl+0x94/0xc0 <- vfio_device_fops_unl_ioctl)
LAB-TRACE 6.500000: lab_map: (vfio_iommu_type1_ioctl+0x4/0x18d0 [vfio_iommu_type1]) request=0x3b71
LAB-TRACE 6.750000: lab_mapped: (__x64_sys_ioctl+0x94/0xc0 <- vfio_iommu_type1_ioctl)
LAB-TRACE 6.800000: lab_run: (kvm_arch_vcpu_ioctl_run+0x4/0x4d0 [kvm])
`;

test('attaching lasts from opening the group to the last call on the device; only MAP_DMA counts as mapping', () => {
  const { attach, map } = parseAttachTimes(trace.replaceAll('\n', '\r\n'));
  expect(attach).toBeCloseTo(1.25, 6);
  expect(map).toBeCloseTo(1.25, 6);
});

test('a trace without a device is an error', () => {
  expect(() => parseAttachTimes('L2-END 3.12\n')).toThrowError(/saw no device/);
});
