import { VFIO_NOIOMMU_IOMMU } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import type { IommuDriver } from './iommu-driver.js';

const refuse = (call: string) =>
  vfioError(call, 'container (core)', 'ENOTTY', 'there is no IOMMU to program');

/** The IOMMU driver of groups without an IOMMU: it maps nothing, and devices can access all host memory. */
export const noiommuDriver: IommuDriver = {
  name: 'vfio-noiommu',
  isNoiommu: true,
  checkExtension: (extension) => (extension === VFIO_NOIOMMU_IOMMU ? 1 : 0),
  open: (environment) => {
    if (!environment.ports.hasRawio())
      throw vfioError('VFIO_SET_IOMMU', 'container (core)', 'EPERM', 'needs CAP_SYS_RAWIO');
    environment.allocate('vfio-noiommu');
    return {
      name: 'vfio-noiommu',
      space: undefined,
      dirtyPages: undefined,
      checkExtension: (extension) => (extension === VFIO_NOIOMMU_IOMMU ? 1 : 0),
      *attachGroup() {},
      *detachGroup() {},
      getInfo() {
        throw refuse('VFIO_IOMMU_GET_INFO');
      },
      *mapDma() {
        yield 'vfio_noiommu_ioctl';
        throw refuse('VFIO_IOMMU_MAP_DMA');
      },
      *unmapDma() {
        yield 'vfio_noiommu_ioctl';
        throw refuse('VFIO_IOMMU_UNMAP_DMA');
      },
      *registerNotifier() {
        yield 'vfio_noiommu_ioctl';
        throw refuse('vfio_register_notifier');
      },
      *unregisterNotifier() {},
      release: () => environment.free('vfio-noiommu'),
    };
  },
};
