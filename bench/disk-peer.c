/*
 * What a disk's requests cost in C: pread and pwrite, one after the other.
 *   disk-peer FILE read|write BYTES COUNT SEED   prints nanoseconds per operation; random places for 4096 bytes, else in order
 *   disk-peer FILE drop                          writes the file back, and has the kernel forget it
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static uint32_t state;

static uint32_t next(void)
{
	state = state * 1664525u + 1013904223u;
	return state >> 8;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	int fd = open(argv[1], O_RDWR);
	struct stat st;
	if (fd < 0 || fstat(fd, &st))
		return 1;
	if (!strcmp(argv[2], "drop")) {
		fdatasync(fd);
		return posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) ? 1 : 0;
	}
	if (argc < 6)
		return 2;
	int is_write = !strcmp(argv[2], "write");
	size_t bytes = strtoul(argv[3], NULL, 0);
	long count = atol(argv[4]);
	state = strtoul(argv[5], NULL, 0);
	size_t places = st.st_size / bytes;
	char *buffer = aligned_alloc(4096, bytes);
	memset(buffer, 7, bytes);
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (long i = 0; i < count; i++) {
		off_t at = (bytes == 4096 ? next() : (uint32_t)i) % places * bytes;
		ssize_t got = is_write ? pwrite(fd, buffer, bytes, at) : pread(fd, buffer, bytes, at);
		if (got != (ssize_t)bytes)
			return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%.0f\n", ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / count);
	return 0;
}
