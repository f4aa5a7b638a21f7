/*
 * A mode-setting program: `drm COUNT` gives each of that many screens of the first card its preferred mode, a picture and a cursor, and
 * prints L2-SCREEN HEAD WIDTH HEIGHT for each. It then waits until one of them has another preferred mode, sets that, and so on. A card
 * shows what a program has set only while that is there. Without a libc, as kexec.c.
 */
/* arch/x86/entry/syscalls/syscall_64.tbl */
#define __NR_write 1
#define __NR_open 2
#define __NR_mmap 9
#define __NR_ioctl 16
#define __NR_nanosleep 35
#define __NR_exit 60

#define O_RDWR 2
#define PROT_READ_WRITE 3
#define MAP_SHARED 1
#define MOST 16
#define CURSOR_SIDE 64

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long u64;

/* include/uapi/drm/drm_mode.h, with its names */
struct drm_mode_modeinfo {
	u32 clock;
	u16 hdisplay, hsync_start, hsync_end, htotal, hskew;
	u16 vdisplay, vsync_start, vsync_end, vtotal, vscan;
	u32 vrefresh, flags, type;
	char name[32];
};
struct drm_mode_card_res {
	u64 fb_id_ptr, crtc_id_ptr, connector_id_ptr, encoder_id_ptr;
	u32 count_fbs, count_crtcs, count_connectors, count_encoders;
	u32 min_width, max_width, min_height, max_height;
};
struct drm_mode_get_connector {
	u64 encoders_ptr, modes_ptr, props_ptr, prop_values_ptr;
	u32 count_modes, count_props, count_encoders;
	u32 encoder_id, connector_id, connector_type, connector_type_id, connection;
	u32 mm_width, mm_height, subpixel, pad;
};
struct drm_mode_crtc {
	u64 set_connectors_ptr;
	u32 count_connectors, crtc_id, fb_id, x, y, gamma_size, mode_valid;
	struct drm_mode_modeinfo mode;
};
struct drm_mode_create_dumb {
	u32 height, width, bpp, flags, handle, pitch;
	u64 size;
};
struct drm_mode_map_dumb {
	u32 handle, pad;
	u64 offset;
};
struct drm_mode_fb_cmd {
	u32 fb_id, width, height, pitch, bpp, depth, handle;
};
struct drm_mode_cursor {
	u32 flags, crtc_id;
	int x, y;
	u32 width, height, handle;
};

#define IOWR(number, type) (3ul << 30 | sizeof(type) << 16 | 'd' << 8 | (number))
#define DRM_IOCTL_MODE_GETRESOURCES IOWR(0xa0, struct drm_mode_card_res)
#define DRM_IOCTL_MODE_SETCRTC IOWR(0xa2, struct drm_mode_crtc)
#define DRM_IOCTL_MODE_CURSOR IOWR(0xa3, struct drm_mode_cursor)
#define DRM_IOCTL_MODE_GETCONNECTOR IOWR(0xa7, struct drm_mode_get_connector)
#define DRM_IOCTL_MODE_ADDFB IOWR(0xae, struct drm_mode_fb_cmd)
#define DRM_IOCTL_MODE_CREATE_DUMB IOWR(0xb2, struct drm_mode_create_dumb)
#define DRM_IOCTL_MODE_MAP_DUMB IOWR(0xb3, struct drm_mode_map_dumb)
#define DRM_MODE_CURSOR_BO 1
#define DRM_MODE_CURSOR_MOVE 2
#define DRM_MODE_CONNECTED 1
#define DRM_MODE_TYPE_PREFERRED 8

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	register long r9 asm("r9") = f;
	long result;

	asm volatile("syscall" : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return result;
}

/* The compiler may call them. */
void *memset(void *to, int byte, unsigned long count)
{
	for (char *at = to; count; count--)
		*at++ = byte;
	return to;
}

void *memcpy(void *to, const void *from, unsigned long count)
{
	char *at = to;

	for (const char *next = from; count; count--)
		*at++ = *next++;
	return to;
}

static char line[256];
static long length;

static void put(const char *text)
{
	while (*text && length < (long)sizeof(line))
		line[length++] = *text++;
}

static void put_number(long value)
{
	char digits[24];
	char *at = digits + sizeof(digits) - 1;

	*at = 0;
	do
		*--at = '0' + value % 10;
	while (value /= 10);
	put(" ");
	put(at);
}

static void say(void)
{
	put("\n");
	call(__NR_write, 1, (long)line, length, 0, 0, 0);
	length = 0;
}

static int card;

/* Ends the program if a call failed, and says which. */
static long must(const char *what, long result)
{
	if (result >= 0)
		return result;
	put("L2-DRM ");
	put(what);
	put_number(-result);
	say();
	for (;;)
		call(__NR_exit, 1, 0, 0, 0, 0, 0);
}

static void control(const char *what, unsigned long request, void *argument)
{
	must(what, call(__NR_ioctl, card, request, (long)argument, 0, 0, 0));
}

/* Memory for a picture, filled: as drawn_pixels and cursor_pixels of l2-screens.ts. */
static struct drm_mode_create_dumb draw(u32 width, u32 height, u32 head, u32 alpha)
{
	struct drm_mode_create_dumb dumb = {.width = width, .height = height, .bpp = 32};
	struct drm_mode_map_dumb map = {0};
	u32 *pixels;

	control("CREATE_DUMB", DRM_IOCTL_MODE_CREATE_DUMB, &dumb);
	map.handle = dumb.handle;
	control("MAP_DUMB", DRM_IOCTL_MODE_MAP_DUMB, &map);
	pixels = (u32 *)must("mmap", call(__NR_mmap, 0, dumb.size, PROT_READ_WRITE, MAP_SHARED, card, map.offset));
	for (u32 y = 0; y < height; y++)
		for (u32 x = 0; x < width; x++)
			pixels[y * (dumb.pitch / 4) + x] =
				alpha | ((x * 0x10301 ^ y * 0x30107 ^ head * 0x55aa33) & 0xffffff);
	return dumb;
}

static void set_mode(u32 head, u32 crtc_id, u32 connector_id, struct drm_mode_modeinfo *mode)
{
	struct drm_mode_create_dumb picture = draw(mode->hdisplay, mode->vdisplay, head, 0);
	struct drm_mode_create_dumb image = draw(CURSOR_SIDE, CURSOR_SIDE, head + 100, 0xff000000);
	struct drm_mode_fb_cmd fb = {
		.width = picture.width, .height = picture.height, .pitch = picture.pitch,
		.bpp = 32, .depth = 24, .handle = picture.handle,
	};
	struct drm_mode_crtc crtc = {
		.set_connectors_ptr = (u64)&connector_id, .count_connectors = 1, .crtc_id = crtc_id, .mode_valid = 1,
	};
	struct drm_mode_cursor cursor = {
		.flags = DRM_MODE_CURSOR_BO | DRM_MODE_CURSOR_MOVE, .crtc_id = crtc_id, .x = 10 + head, .y = 20,
		.width = CURSOR_SIDE, .height = CURSOR_SIDE, .handle = image.handle,
	};

	control("ADDFB", DRM_IOCTL_MODE_ADDFB, &fb);
	crtc.fb_id = fb.fb_id;
	crtc.mode = *mode;
	control("SETCRTC", DRM_IOCTL_MODE_SETCRTC, &crtc);
	control("CURSOR", DRM_IOCTL_MODE_CURSOR, &cursor);
	put("L2-SCREEN");
	put_number(head);
	put_number(mode->hdisplay);
	put_number(mode->vdisplay);
	say();
}

static struct drm_mode_modeinfo modes[128];

/* Asks the card anew what is connected. Returns the preferred mode; none is 0. */
static struct drm_mode_modeinfo *preferred(u32 connector_id)
{
	struct drm_mode_get_connector connector = {.connector_id = connector_id};

	control("GETCONNECTOR", DRM_IOCTL_MODE_GETCONNECTOR, &connector);
	if (connector.connection != DRM_MODE_CONNECTED || !connector.count_modes)
		return 0;
	if (connector.count_modes > 128)
		connector.count_modes = 128;
	connector.modes_ptr = (u64)modes;
	connector.count_props = connector.count_encoders = 0;
	control("GETCONNECTOR", DRM_IOCTL_MODE_GETCONNECTOR, &connector);
	for (u32 i = 0; i < connector.count_modes; i++)
		if (modes[i].type & DRM_MODE_TYPE_PREFERRED)
			return &modes[i];
	return &modes[0];
}

static void run(long count, char **arguments)
{
	u32 crtcs[MOST], connectors[MOST], widths[MOST] = {0}, heights[MOST] = {0};
	struct drm_mode_card_res res = {.crtc_id_ptr = (u64)crtcs, .connector_id_ptr = (u64)connectors};
	u32 wanted = count > 1 ? arguments[1][0] - '0' : 1;
	int waits = 0;

	card = must("open", call(__NR_open, (long)"/dev/dri/card0", O_RDWR, 0, 0, 0, 0));
	res.count_crtcs = res.count_connectors = MOST;
	control("GETRESOURCES", DRM_IOCTL_MODE_GETRESOURCES, &res);
	for (;;) {
		long nap[2] = {0, 100000000};

		for (u32 i = 0; i < wanted && i < res.count_connectors && i < res.count_crtcs; i++) {
			struct drm_mode_modeinfo *mode = preferred(connectors[i]);

			if (!mode || (mode->hdisplay == widths[i] && mode->vdisplay == heights[i]))
				continue;
			widths[i] = mode->hdisplay;
			heights[i] = mode->vdisplay;
			set_mode(i, crtcs[i], connectors[i], mode);
		}
		if (!waits) {
			put("L2-WAITS");
			say();
		}
		waits = 1;
		call(__NR_nanosleep, (long)nap, 0, 0, 0, 0, 0);
	}
}

void start(long *stack)
{
	run(stack[0], (char **)(stack + 1));
}

asm(".globl _start\n_start: mov %rsp, %rdi; and $-16, %rsp; call start");
