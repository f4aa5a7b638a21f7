/** The structures that follow struct vfio_device_feature, by feature. */
import { io } from '../../sys/ioctl.js';
import { struct } from '../../sys/struct.js';
import { VFIO_BASE, VFIO_TYPE } from './structs.js';

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

/** Of the descriptor that a device gives in PRE_COPY. */
export const PrecopyInfoStruct = struct(
  'struct vfio_precopy_info',
  VFIO,
  { argsz: 'u32', flags: 'u32', initial_bytes: 'u64', dirty_bytes: 'u64' },
  { since: '6.2' },
);
export const VFIO_MIG_GET_PRECOPY_INFO = io('VFIO_MIG_GET_PRECOPY_INFO', VFIO_TYPE, VFIO_BASE + 21, {
  since: '6.2',
  hints: {
    EINVAL: 'only a device in PRE_COPY or PRE_COPY_P2P has it',
    ENOTTY: 'the device has no PRE_COPY',
  },
});

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
