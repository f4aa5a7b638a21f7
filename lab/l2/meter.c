/*
 * Measures a guest's network and disks from inside: `meter WHAT NUMBERS...` prints one line, which meter.ts parses. `meter
 * serve` is the peer in L1. Without a libc, as kexec.c.
 */
/* arch/x86/entry/syscalls/syscall_64.tbl */
#define __NR_read 0
#define __NR_write 1
#define __NR_open 2
#define __NR_close 3
#define __NR_mmap 9
#define __NR_pread64 17
#define __NR_pwrite64 18
#define __NR_socket 41
#define __NR_connect 42
#define __NR_accept 43
#define __NR_sendto 44
#define __NR_recvfrom 45
#define __NR_bind 49
#define __NR_listen 50
#define __NR_setsockopt 54
#define __NR_fork 57
#define __NR_exit 60
#define __NR_wait4 61
#define __NR_clock_gettime 228

#define O_RDONLY 0
#define O_RDWR 2
#define O_DIRECT 040000
#define PROT_READ_WRITE 3
#define MAP_SHARED_ANONYMOUS 0x21
#define AF_INET 2
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOL_SOCKET 1
#define SO_REUSEADDR 2
#define SO_RCVTIMEO_OLD 20
#define CLOCK_MONOTONIC 1

#define PORT 0x581b      /* 7000, big-endian */
#define PEER 0x0100010a  /* 10.1.0.1 */
#define BUFFER (1l << 20)
#define PAYLOAD 64
#define EXITS "/sys/kernel/tracing/events/kvm/kvm_userspace_exit/hist"

enum { SEND, RECEIVE, COUNT_EXITS };

struct sockaddr_in {
	unsigned short family, port;
	unsigned address;
	char zero[8];
};

struct request {
	long what, bytes;
};

static char *buffer;

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

/* The compiler may call it. */
void *memset(void *to, int byte, unsigned long count)
{
	for (char *at = to; count; count--)
		*at++ = byte;
	return to;
}

static __attribute__((noreturn)) void end(long status)
{
	for (;;)
		call(__NR_exit, status, 0, 0, 0, 0, 0);
}

/* Ends the program if a call failed. */
static long must(long result)
{
	if (result < 0)
		end(-result);
	return result;
}

static long now_us(void)
{
	long time[2];

	must(call(__NR_clock_gettime, CLOCK_MONOTONIC, (long)time, 0, 0, 0, 0));
	return time[0] * 1000000 + time[1] / 1000;
}

static long number_of(const char *text)
{
	long value = 0;

	while (*text >= '0' && *text <= '9')
		value = value * 10 + *text++ - '0';
	return value;
}

static int is_same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
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
	put(at);
}

/* L2-METER NAME AMOUNT in TIME us, EXITS exits */
static long say(long count, char **words, long amount, long us, long exits)
{
	put("L2-METER ");
	for (long i = 1; i < count; i++) {
		put(words[i]);
		put(" ");
	}
	put_number(amount);
	put(" in ");
	put_number(us);
	put(" us, ");
	put_number(exits);
	put(" exits\n");
	call(__NR_write, 1, (long)line, length, 0, 0, 0);
	return 0;
}

static long opened(long type)
{
	return must(call(__NR_socket, AF_INET, type, 0, 0, 0, 0));
}

static long connected(long type)
{
	struct sockaddr_in peer = { AF_INET, PORT, PEER, { 0 } };
	long fd = opened(type);

	must(call(__NR_connect, fd, (long)&peer, sizeof(peer), 0, 0, 0));
	return fd;
}

static long bound(long type)
{
	struct sockaddr_in any = { AF_INET, PORT, 0, { 0 } };
	long fd = opened(type);
	int yes = 1;

	must(call(__NR_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, (long)&yes, sizeof(yes), 0));
	must(call(__NR_bind, fd, (long)&any, sizeof(any), 0, 0, 0));
	return fd;
}

/* Reads, or writes, exactly so many bytes; only the last ones stay in the buffer. */
static void move(long what, long fd, long bytes)
{
	while (bytes > 0) {
		long done = must(call(what, fd, (long)buffer, bytes < BUFFER ? bytes : BUFFER, 0, 0, 0));

		if (done == 0)
			end(104); /* ECONNRESET */
		bytes -= done;
	}
}

/* The number of exits to user space of all vCPUs, which L1's kernel counts: "Hits: N" of a histogram. */
static long exits_now(void)
{
	long fd = call(__NR_open, (long)EXITS, O_RDONLY, 0, 0, 0, 0);
	long bytes, hits = 0;

	if (fd < 0)
		return 0;
	while ((bytes = call(__NR_read, fd, (long)buffer, BUFFER - 1, 0, 0, 0)) > 0) {
		buffer[bytes] = 0;
		for (char *at = buffer; *at; at++)
			if (at[0] == 'H' && at[1] == 'i' && at[2] == 't' && at[3] == 's' && at[4] == ':')
				hits = number_of(at + 6);
	}
	call(__NR_close, fd, 0, 0, 0, 0, 0);
	return hits;
}

static void echo_datagrams(void)
{
	struct sockaddr_in from;
	long fd = bound(SOCK_DGRAM);

	for (;;) {
		int size = sizeof(from);
		long bytes = call(__NR_recvfrom, fd, (long)buffer, BUFFER, 0, (long)&from, (long)&size);

		if (bytes >= 0)
			call(__NR_sendto, fd, (long)buffer, bytes, 0, (long)&from, size);
	}
}

/* A connection has its own process, so that a guest that ends early ends nothing else. */
static void answer(long fd)
{
	struct request request;
	long exits;

	for (;;) {
		if (must(call(__NR_read, fd, (long)&request, sizeof(request), 0, 0, 0)) != sizeof(request))
			end(0);
		switch (request.what) {
		case SEND:
			move(__NR_write, fd, request.bytes);
			break;
		case RECEIVE:
			move(__NR_read, fd, request.bytes);
			must(call(__NR_write, fd, (long)buffer, 1, 0, 0, 0));
			break;
		default:
			exits = exits_now();
			must(call(__NR_write, fd, (long)&exits, sizeof(exits), 0, 0, 0));
		}
	}
}

static void serve(void)
{
	long fd = bound(SOCK_STREAM);

	must(call(__NR_listen, fd, 8, 0, 0, 0, 0));
	if (must(call(__NR_fork, 0, 0, 0, 0, 0, 0)) == 0)
		echo_datagrams();
	for (;;) {
		long client = must(call(__NR_accept, fd, 0, 0, 0, 0, 0));

		if (must(call(__NR_fork, 0, 0, 0, 0, 0, 0)) == 0)
			answer(client);
		call(__NR_close, client, 0, 0, 0, 0, 0);
	}
}

static void ask(long fd, long what, long bytes)
{
	struct request request = { what, bytes };

	must(call(__NR_write, fd, (long)&request, sizeof(request), 0, 0, 0));
}

static long exits_by(long fd)
{
	long exits;

	ask(fd, COUNT_EXITS, 0);
	must(call(__NR_read, fd, (long)&exits, sizeof(exits), 0, 0, 0));
	return exits;
}

/* Replies to datagrams, so many of which are under way, within so many milliseconds. Lost ones are sent again. */
static long replies(long window, long ms)
{
	long fd = connected(SOCK_DGRAM), count = 0, stop = now_us() + ms * 1000, due = window;
	long timeout[2] = { 0, 200000 };

	must(call(__NR_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO_OLD, (long)timeout, sizeof(timeout), 0));
	do {
		for (; due > 0; due--)
			must(call(__NR_sendto, fd, (long)buffer, PAYLOAD, 0, 0, 0));
		if (call(__NR_recvfrom, fd, (long)buffer, BUFFER, 0, 0, 0) > 0)
			count++, due = 1;
		else
			due = window;
	} while (now_us() < stop);
	return count;
}

/* down BYTES, up BYTES, echo WINDOW MS */
static long network(long count, char **words)
{
	long fd = connected(SOCK_STREAM), amount = number_of(words[2]);
	long exits = exits_by(fd), start = now_us(), us;

	if (is_same(words[1], "down")) {
		ask(fd, SEND, amount);
		move(__NR_read, fd, amount);
	} else if (is_same(words[1], "up")) {
		ask(fd, RECEIVE, amount);
		move(__NR_write, fd, amount);
		move(__NR_read, fd, 1);
	} else {
		amount = replies(amount, number_of(words[3]));
	}
	us = now_us() - start;
	return say(count, words, amount, us, exits_by(fd) - exits);
}

/* Blocks of one of several processes: in order, or anywhere on the disk. */
static void blocks(long fd, long what, long block, long from, long to, long step, long disk)
{
	unsigned long seed = from * 2654435761 + 1;

	for (long i = from; i < to; i += step) {
		long at = i;

		if (disk > 0) {
			seed = seed * 6364136223846793005 + 1442695040888963407;
			at = (seed >> 33) % disk;
		}
		if (must(call(what, fd, (long)buffer, block, at * block, 0, 0)) != block)
			end(5); /* EIO */
	}
}

/* read|write FILE BLOCK BYTES PROCESSES DISK: past the page cache; DISK is the range for random blocks, 0 for in order */
static long disk(long count, char **words)
{
	long what = is_same(words[1], "read") ? __NR_pread64 : __NR_pwrite64;
	long block = number_of(words[3]), bytes = number_of(words[4]), processes = number_of(words[5]);
	long range = number_of(words[6]) / block;
	long fd = must(call(__NR_open, (long)words[2], O_RDWR | O_DIRECT, 0, 0, 0, 0));
	long start = now_us();

	for (long i = 0; i < processes; i++)
		if (must(call(__NR_fork, 0, 0, 0, 0, 0, 0)) == 0) {
			blocks(fd, what, block, i, bytes / block, processes, range);
			end(0);
		}
	for (long i = 0; i < processes; i++) {
		int status = 0;

		must(call(__NR_wait4, -1, (long)&status, 0, 0, 0, 0));
		if (status)
			end(5); /* EIO */
	}
	return say(count, words, bytes, now_us() - start, 0);
}

static long run(long count, char **words)
{
	buffer = (char *)must(call(__NR_mmap, 0, BUFFER, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS, -1, 0));
	for (long i = 0; i < BUFFER; i++)
		buffer[i] = i * 7 + (i >> 8);
	if (count == 2 && is_same(words[1], "serve"))
		serve();
	if (count == 3 || count == 4)
		return network(count, words);
	return count == 7 ? disk(count, words) : 64;
}

void start(long *stack)
{
	end(run(stack[0], (char **)(stack + 1)));
}

asm(".globl _start\n_start: mov %rsp, %rdi; and $-16, %rsp; call start");
