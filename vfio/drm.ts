/** Constants of drm_fourcc.h and drm_mode.h, of VFIO's planes. A format names the bits of a little-endian word from the highest on. */
export const DRM_FORMAT_XRGB8888 = 0x3432_5258;
export const DRM_FORMAT_ARGB8888 = 0x3432_5241;
export const DRM_FORMAT_XBGR8888 = 0x3432_4258;
export const DRM_FORMAT_ABGR8888 = 0x3432_4241;
/** XRGB8888 of a big-endian guest. */
export const DRM_FORMAT_BGRX8888 = 0x3432_5842;
export const DRM_FORMAT_BGRA8888 = 0x3432_4142;
export const DRM_FORMAT_RGBX8888 = 0x3432_5852;
export const DRM_FORMAT_RGBA8888 = 0x3432_4152;
export const DRM_FORMAT_RGB565 = 0x3631_4752;

export const DRM_PLANE_TYPE_PRIMARY = 1;
export const DRM_PLANE_TYPE_CURSOR = 2;
