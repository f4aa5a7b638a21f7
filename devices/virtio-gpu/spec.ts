/** Constants of GPU devices in the virtio 1.2 specification and linux/virtio_gpu.h, under the same names. */

// Feature bits, 5.7.3
export const VIRTIO_GPU_F_EDID = 1n << 1n;

// struct virtio_gpu_config, 5.7.4
export const CONFIG_EVENTS_READ = 0;
export const CONFIG_EVENTS_CLEAR = 4;
export const CONFIG_NUM_SCANOUTS = 8;
export const CONFIG_BYTES = 16;
export const VIRTIO_GPU_EVENT_DISPLAY = 1;

// struct virtio_gpu_ctrl_hdr, 5.7.6.7
export const HEADER_BYTES = 24;
export const HEADER_FLAGS = 4;
export const HEADER_FENCE_ID = 8;
export const HEADER_CTX_ID = 16;
export const VIRTIO_GPU_FLAG_FENCE = 1;

export const VIRTIO_GPU_CMD_GET_DISPLAY_INFO = 0x0100;
export const VIRTIO_GPU_CMD_RESOURCE_CREATE_2D = 0x0101;
export const VIRTIO_GPU_CMD_RESOURCE_UNREF = 0x0102;
export const VIRTIO_GPU_CMD_SET_SCANOUT = 0x0103;
export const VIRTIO_GPU_CMD_RESOURCE_FLUSH = 0x0104;
export const VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D = 0x0105;
export const VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING = 0x0106;
export const VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING = 0x0107;
export const VIRTIO_GPU_CMD_GET_EDID = 0x010a;
export const VIRTIO_GPU_CMD_UPDATE_CURSOR = 0x0300;
export const VIRTIO_GPU_CMD_MOVE_CURSOR = 0x0301;

export const VIRTIO_GPU_RESP_OK_NODATA = 0x1100;
export const VIRTIO_GPU_RESP_OK_DISPLAY_INFO = 0x1101;
export const VIRTIO_GPU_RESP_OK_EDID = 0x1104;
export const VIRTIO_GPU_RESP_ERR_UNSPEC = 0x1200;
export const VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY = 0x1201;
export const VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID = 0x1202;
export const VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID = 0x1203;
export const VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER = 0x1205;

// enum virtio_gpu_formats: the order of the bytes in memory
export const VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM = 1;
export const VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM = 2;
export const VIRTIO_GPU_FORMAT_A8R8G8B8_UNORM = 3;
export const VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM = 4;
export const VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM = 67;
export const VIRTIO_GPU_FORMAT_X8B8G8R8_UNORM = 68;
export const VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM = 121;
export const VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM = 134;
export const PIXEL_BYTES = 4;

export const VIRTIO_GPU_MAX_SCANOUTS = 16;
/** struct virtio_gpu_display_one: a rectangle, whether it is enabled, and flags. */
export const DISPLAY_BYTES = 24;
/** struct virtio_gpu_mem_entry: address, length and padding. */
export const MEM_ENTRY_BYTES = 16;
/** Of struct virtio_gpu_resp_edid. */
export const EDID_BYTES = 1024;

export const CONTROLQ = 0;
export const CURSORQ = 1;
export const QUEUE_COUNT = 2;

/** Width and height of a cursor, pixels, and its bytes. */
export const CURSOR_SIDE = 64;
export const CURSOR_BYTES: number = CURSOR_SIDE * CURSOR_SIDE * PIXEL_BYTES;

/** Most resources at a time. */
export const MOST_RESOURCES = 1024;
/** Most pieces of memory behind one resource, and behind all of them. */
export const MOST_BACKING_ENTRIES = 16_384;
export const MOST_BACKING_ENTRIES_IN_ALL = 65_536;
/** Longest chain in bytes: the longest command and its response. */
export const MOST_CHAIN_BYTES: number = 32 + MEM_ENTRY_BYTES * MOST_BACKING_ENTRIES + 4096;
