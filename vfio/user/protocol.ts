/**
 * The vfio-user protocol: numbers, sizes and limits. Specification: QEMU, docs/interop/vfio-user.rst. All fields are
 * little-endian, as the host is; offsets are relative to the end of the header.
 */

export const HEADER_BYTES = 16;

// Commands. 14 was DIRTY_PAGES, which has been removed.
export const VFIO_USER_VERSION = 1;
export const VFIO_USER_DMA_MAP = 2;
export const VFIO_USER_DMA_UNMAP = 3;
export const VFIO_USER_DEVICE_GET_INFO = 4;
export const VFIO_USER_DEVICE_GET_REGION_INFO = 5;
export const VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6;
export const VFIO_USER_DEVICE_GET_IRQ_INFO = 7;
export const VFIO_USER_DEVICE_SET_IRQS = 8;
export const VFIO_USER_REGION_READ = 9;
export const VFIO_USER_REGION_WRITE = 10;
export const VFIO_USER_DMA_READ = 11;
export const VFIO_USER_DMA_WRITE = 12;
export const VFIO_USER_DEVICE_RESET = 13;
export const VFIO_USER_REGION_WRITE_MULTI = 15;
export const VFIO_USER_DEVICE_FEATURE = 16;
export const VFIO_USER_MIG_DATA_READ = 17;
export const VFIO_USER_MIG_DATA_WRITE = 18;

const COMMAND_NAMES: Readonly<Record<number, string>> = {
  [VFIO_USER_VERSION]: 'VFIO_USER_VERSION',
  [VFIO_USER_DMA_MAP]: 'VFIO_USER_DMA_MAP',
  [VFIO_USER_DMA_UNMAP]: 'VFIO_USER_DMA_UNMAP',
  [VFIO_USER_DEVICE_GET_INFO]: 'VFIO_USER_DEVICE_GET_INFO',
  [VFIO_USER_DEVICE_GET_REGION_INFO]: 'VFIO_USER_DEVICE_GET_REGION_INFO',
  [VFIO_USER_DEVICE_GET_REGION_IO_FDS]: 'VFIO_USER_DEVICE_GET_REGION_IO_FDS',
  [VFIO_USER_DEVICE_GET_IRQ_INFO]: 'VFIO_USER_DEVICE_GET_IRQ_INFO',
  [VFIO_USER_DEVICE_SET_IRQS]: 'VFIO_USER_DEVICE_SET_IRQS',
  [VFIO_USER_REGION_READ]: 'VFIO_USER_REGION_READ',
  [VFIO_USER_REGION_WRITE]: 'VFIO_USER_REGION_WRITE',
  [VFIO_USER_DMA_READ]: 'VFIO_USER_DMA_READ',
  [VFIO_USER_DMA_WRITE]: 'VFIO_USER_DMA_WRITE',
  [VFIO_USER_DEVICE_RESET]: 'VFIO_USER_DEVICE_RESET',
  [VFIO_USER_REGION_WRITE_MULTI]: 'VFIO_USER_REGION_WRITE_MULTI',
  [VFIO_USER_DEVICE_FEATURE]: 'VFIO_USER_DEVICE_FEATURE',
  [VFIO_USER_MIG_DATA_READ]: 'VFIO_USER_MIG_DATA_READ',
  [VFIO_USER_MIG_DATA_WRITE]: 'VFIO_USER_MIG_DATA_WRITE',
};

export const commandName = (command: number): string =>
  COMMAND_NAMES[command] ?? `vfio-user command ${command}`;

// Flags of the header.
export const TYPE_MASK = 0xf;
export const TYPE_COMMAND = 0;
export const TYPE_REPLY = 1;
export const FLAG_NO_REPLY = 1 << 4;
export const FLAG_ERROR = 1 << 5;

// VFIO_USER_DMA_MAP
export const VFIO_USER_F_DMA_REGION_READ = 1 << 0;
export const VFIO_USER_F_DMA_REGION_WRITE = 1 << 1;
// VFIO_USER_DMA_UNMAP
export const VFIO_USER_F_DMA_UNMAP_GET_DIRTY_BITMAP = 1 << 0;
export const VFIO_USER_F_DMA_UNMAP_ALL = 1 << 1;
// Kinds of sub-regions of VFIO_USER_DEVICE_GET_REGION_IO_FDS
export const VFIO_USER_IO_FD_TYPE_IOEVENTFD = 0;

/** Supported version of the protocol; peers use the smaller of their minor versions. */
export const MAJOR = 0;
export const MINOR = 2;

/** Defaults for capabilities that a peer does not announce. */
export const DEFAULT_MAX_MSG_FDS = 1;
export const DEFAULT_MAX_DATA_XFER_SIZE = 1 << 20;
export const DEFAULT_MAX_DMA_MAPS = 65_535;
export const DEFAULT_PGSIZES = 4096;

/** Most descriptors of one message: QEMU sends 16, and refuses a peer that announces more. */
export const MAX_MSG_FDS = 16;
/** Most descriptors of one answer, which a client announces: one for each doorbell of a region. */
export const MAX_ANSWER_FDS = 64;
/** Largest accepted message: the data of one transfer, its header, and the largest structure before it. */
export const MAX_MESSAGE_BYTES = DEFAULT_MAX_DATA_XFER_SIZE + 4096;
/** Addresses and sizes above this are refused: they would not be exact as numbers, and no guest uses them. */
export const MAX_ADDRESS = 2n ** 52n;
