/*
 * The peer of bench/exit-cost.ts: a minimal VMM loop around KVM_RUN. It uses the memory and registers prepared by the
 * TypeScript side, so that both run the same guest.
 *
 *   exit-loop MEMORY SREGS REGS mean      prints nanoseconds per exit
 *   exit-loop MEMORY SREGS REGS each      prints the nanoseconds of each exit, a line for each
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_EXITS = 1 << 20 };

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *slurp(const char *path, size_t *bytes)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		die(path);
	void *data = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		die(path);
	close(fd);
	*bytes = st.st_size;
	return data;
}

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	size_t memory_bytes, bytes;
	void *memory = slurp(argv[1], &memory_bytes);
	struct kvm_sregs *sregs = slurp(argv[2], &bytes);
	struct kvm_regs *regs = slurp(argv[3], &bytes);
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_userspace_memory_region region = {
		.memory_size = memory_bytes, .userspace_addr = (uintptr_t)memory };
	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		die("KVM_SET_USER_MEMORY_REGION");
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	struct kvm_run *run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
				   MAP_SHARED, vcpu, 0);
	if (vcpu < 0 || run == MAP_FAILED)
		die("KVM_CREATE_VCPU");

	volatile uint8_t sink = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, regs) < 0)
		die("KVM_SET_SREGS");
	int is_each = !strcmp(argv[4], "each");
	static double each[MOST_EXITS];
	long exits = 0;
	double start = now_ns(), last = start;
	for (int more = 1; more && exits < MOST_EXITS;) {
		if (ioctl(vcpu, KVM_RUN, 0) < 0)
			die("KVM_RUN");
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			sink = *((uint8_t *)run + run->io.data_offset);
			exits++;
			break;
		case KVM_EXIT_MMIO:
			sink = run->mmio.data[0];
			exits++;
			break;
		case KVM_EXIT_HLT:
			more = 0;
			break;
		default:
			fprintf(stderr, "exit %u\n", run->exit_reason);
			return 1;
		}
		if (is_each && more) {
			double now = now_ns();
			each[exits - 1] = now - last;
			last = now;
		}
	}
	if (!is_each)
		printf("%.1f\n", (now_ns() - start) / exits);
	for (long i = 0; is_each && i < exits; i++)
		printf("%.0f\n", each[i]);
	return sink == 256;
}
