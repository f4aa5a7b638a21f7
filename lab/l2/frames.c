/*
 * Numbered pictures: waits for a byte at its input, then draws in four phases, and prints "L2-FRAME PHASE NUMBER" once the card has been
 * told of each. Phase 0 changes 64 x 64 pixels ten times a second, 1 the whole screen ten times a second, 2 and 3 the same as fast as it
 * can. Ends with L2-DRAWN. Numbers are drawn as in frame-number.ts.
 */
#define run run_screens
#define start start_screens
#include "drm.c"
#undef run
#undef start

#define __NR_read 0
#define __NR_clock_gettime 228
#define CLOCK_MONOTONIC 1
#define SIDE 64
#define BLOCK 8
#define PHASES 4
#define PHASE_NS 5000000000l
#define PACE_NS 100000000l

struct drm_clip_rect {
	u16 x1, y1, x2, y2;
};
struct drm_mode_fb_dirty_cmd {
	u32 fb_id, flags, color, num_clips;
	u64 clips_ptr;
};
#define DRM_IOCTL_MODE_DIRTYFB IOWR(0xb1, struct drm_mode_fb_dirty_cmd)

static long now(void)
{
	long time[2];

	call(__NR_clock_gettime, CLOCK_MONOTONIC, (long)time, 0, 0, 0, 0);
	return time[0] * 1000000000 + time[1];
}

static void sleep_until(long end)
{
	long left = end - now();
	long nap[2] = {left / 1000000000, left % 1000000000};

	if (left > 0)
		call(__NR_nanosleep, (long)nap, 0, 0, 0, 0, 0);
}

/* The number's 16 bits and their complements as rows of 8 blocks, and everything else in another colour than last time. */
static void paint(u32 *pixels, u32 across, u32 width, u32 height, u32 number)
{
	u32 bits = number | ~number << 16;

	for (u32 y = 0; y < height; y++)
		for (u32 x = 0; x < width; x++)
			if (y < 4 * BLOCK && x < SIDE)
				pixels[y * across + x] = bits >> (y / BLOCK * 8 + x / BLOCK) & 1 ? 0xffffff : 0;
			else
				pixels[y * across + x] = (number * 0x45d9f3 ^ x * 0x10301 ^ y * 0x30107) & 0xffffff;
}

void start(long *stack)
{
	u32 crtcs[MOST], connectors[MOST];
	struct drm_mode_card_res res = {
		.crtc_id_ptr = (u64)crtcs, .connector_id_ptr = (u64)connectors,
		.count_crtcs = MOST, .count_connectors = MOST,
	};
	struct drm_mode_crtc crtc = {.set_connectors_ptr = (u64)connectors, .count_connectors = 1, .mode_valid = 1};
	struct drm_mode_modeinfo *mode;
	struct drm_mode_create_dumb dumb = {.bpp = 32};
	struct drm_mode_map_dumb map = {0};
	struct drm_mode_fb_cmd fb = {.bpp = 32, .depth = 24};
	u32 *pixels, number = 0;
	char byte;

	(void)stack;
	card = must("open", call(__NR_open, (long)"/dev/dri/card0", O_RDWR, 0, 0, 0, 0));
	control("GETRESOURCES", DRM_IOCTL_MODE_GETRESOURCES, &res);
	mode = preferred(connectors[0]);
	must("no mode", mode ? 0 : -1);
	dumb.width = fb.width = mode->hdisplay;
	dumb.height = fb.height = mode->vdisplay;
	control("CREATE_DUMB", DRM_IOCTL_MODE_CREATE_DUMB, &dumb);
	map.handle = fb.handle = dumb.handle;
	fb.pitch = dumb.pitch;
	control("MAP_DUMB", DRM_IOCTL_MODE_MAP_DUMB, &map);
	pixels = (u32 *)must("mmap", call(__NR_mmap, 0, dumb.size, PROT_READ_WRITE, MAP_SHARED, card, map.offset));
	paint(pixels, dumb.pitch / 4, fb.width, fb.height, number);
	control("ADDFB", DRM_IOCTL_MODE_ADDFB, &fb);
	crtc.fb_id = fb.fb_id;
	crtc.crtc_id = crtcs[0];
	crtc.mode = *mode;
	control("SETCRTC", DRM_IOCTL_MODE_SETCRTC, &crtc);
	put("L2-SCREEN");
	put_number(0);
	put_number(fb.width);
	put_number(fb.height);
	say();
	put("L2-WAITS");
	say();
	must("read", call(__NR_read, 0, (long)&byte, 1, 0, 0, 0));
	for (u32 phase = 0; phase < PHASES; phase++) {
		struct drm_clip_rect clip = {
			.x2 = phase & 1 ? fb.width : SIDE, .y2 = phase & 1 ? fb.height : SIDE,
		};
		struct drm_mode_fb_dirty_cmd dirty = {.fb_id = fb.fb_id, .num_clips = 1, .clips_ptr = (u64)&clip};
		long begun = now();

		for (long next = begun; next < begun + PHASE_NS; next += PACE_NS) {
			paint(pixels, dumb.pitch / 4, clip.x2, clip.y2, ++number);
			control("DIRTYFB", DRM_IOCTL_MODE_DIRTYFB, &dirty);
			put("L2-FRAME");
			put_number(phase);
			put_number(number);
			say();
			if (phase < 2)
				sleep_until(next + PACE_NS);
			else
				next = now() - PACE_NS;
		}
	}
	put("L2-DRAWN");
	say();
	for (;;)
		sleep_until(now() + PHASE_NS);
}
