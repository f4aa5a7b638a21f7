/*
 * Prints what arrives at the input devices of virtio, one line for each event: `events COUNT` ends after that many, SYN_REPORTs included.
 * Linux repeats a key that is held for long, as it is where all is slow: that is left out.
 * L2-INPUT NAME, then L2-EVENT NAME TYPE CODE VALUE. Without a libc, as kexec.c.
 */
/* arch/x86/entry/syscalls/syscall_64.tbl */
#define __NR_read 0
#define __NR_write 1
#define __NR_open 2
#define __NR_poll 7
#define __NR_ioctl 16
#define __NR_exit 60

#define O_RDONLY 0
#define POLLIN 1
#define NAME_BYTES 64
#define EVIOCGNAME (2ul << 30 | NAME_BYTES << 16 | 'E' << 8 | 0x06)
#define MOST 16

#define EV_SYN 0
#define EV_KEY 1
#define REPEATED_KEY 2
#define REPEATED_SYN 1

struct pollfd {
	int fd;
	short events, revents;
};

struct input_event {
	long seconds, microseconds;
	unsigned short type, code;
	int value;
};

static long call(long number, long a, long b, long c)
{
	long result;

	asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
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
	long left = value < 0 ? -value : value;

	*at = 0;
	do
		*--at = '0' + left % 10;
	while (left /= 10);
	if (value < 0)
		*--at = '-';
	put(" ");
	put(at);
}

static void say(void)
{
	put("\n");
	call(__NR_write, 1, (long)line, length);
	length = 0;
}

static char names[MOST][NAME_BYTES];
static struct pollfd devices[MOST];

/* Other devices, as the power button, are no part of it. */
static long open_all(void)
{
	char path[] = "/dev/input/event0";
	long found = 0;

	for (long i = 0; i < 10; i++) {
		long fd;

		path[sizeof(path) - 2] = '0' + i;
		fd = call(__NR_open, (long)path, O_RDONLY, 0);
		if (fd < 0)
			continue;
		call(__NR_ioctl, fd, EVIOCGNAME, (long)names[found]);
		if (names[found][0] != 't' || names[found][1] != 's')
			continue;
		for (char *at = names[found]; *at; at++)
			if (*at == ' ')
				*at = '-';
		put("L2-INPUT ");
		put(names[found]);
		say();
		devices[found].fd = fd;
		devices[found++].events = POLLIN;
	}
	return found;
}

static long run(long count, char **arguments)
{
	long left = 0, found;

	for (const char *at = count > 1 ? arguments[1] : ""; *at; at++)
		left = left * 10 + *at - '0';
	found = open_all();
	if (!found)
		return 19; /* ENODEV */
	put("L2-WAITS");
	say();
	while (left > 0) {
		if (call(__NR_poll, (long)devices, found, -1) < 0)
			return 5;
		for (long i = 0; i < found; i++) {
			struct input_event event;

			if (!(devices[i].revents & POLLIN))
				continue;
			if (call(__NR_read, devices[i].fd, (long)&event, sizeof(event)) != sizeof(event))
				return 5;
			if ((event.type == EV_KEY && event.value == REPEATED_KEY) ||
			    (event.type == EV_SYN && event.value == REPEATED_SYN))
				continue;
			put("L2-EVENT ");
			put(names[i]);
			put_number(event.type);
			put_number(event.code);
			put_number(event.value);
			say();
			left--;
		}
	}
	return 0;
}

void start(long *stack)
{
	call(__NR_exit, run(stack[0], (char **)(stack + 1)), 0, 0);
}

asm(".globl _start\n_start: mov %rsp, %rdi; and $-16, %rsp; call start");
