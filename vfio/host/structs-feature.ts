/** The structures that follow struct vfio_device_feature, by feature. */
import { struct } from '../../sys/struct.js';

const VFIO = 'linux/vfio.h';

export const FeatureMigration = struct(
  'struct vfio_device_feature_migration',
  VFIO,
  { flags: 'u64' },
  { since: '5.18' },
);
export const FeatureMigState = struct(
  'struct vfio_device_feature_mig_state',
  VFIO,
  { device_state: 'u32', data_fd: 's32' },
  { since: '5.18' },
);
export const FeatureMigDataSize = struct(
  'struct vfio_device_feature_mig_data_size',
  VFIO,
  { stop_copy_length: 'u64' },
  { since: '6.2' },
);

/** Its `ranges` points to `num_ranges` {@link FeatureDmaLoggingRange}. */
export const FeatureDmaLoggingControl = struct(
  'struct vfio_device_feature_dma_logging_control',
  VFIO,
  { page_size: 'u64', num_ranges: 'u32', __reserved: 'u32', ranges: 'u64' },
  { since: '6.1' },
);
export const FeatureDmaLoggingRange = struct(
  'struct vfio_device_feature_dma_logging_range',
  VFIO,
  { iova: 'u64', length: 'u64' },
  { since: '6.1' },
);
/** Its `bitmap` points to whole u64. */
export const FeatureDmaLoggingReport = struct(
  'struct vfio_device_feature_dma_logging_report',
  VFIO,
  { iova: 'u64', length: 'u64', page_size: 'u64', bitmap: 'u64' },
  { since: '6.1' },
);
