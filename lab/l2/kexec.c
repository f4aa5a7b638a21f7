/* kexec KERNEL INITRD COMMAND-LINE: boots another kernel from this one, without firmware. */
/* arch/x86/entry/syscalls/syscall_64.tbl */
#define __NR_open 2
#define __NR_exit 60
#define __NR_sync 162
#define __NR_reboot 169
#define __NR_kexec_file_load 320

#define O_RDONLY 0
#define LINUX_REBOOT_MAGIC1 0xfee1dead
#define LINUX_REBOOT_MAGIC2 672274793
#define LINUX_REBOOT_CMD_KEXEC 0x45584543

static long call(long number, long a, long b, long c, long d, long e)
{
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	long result;

	asm volatile("syscall" : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
		     : "rcx", "r11", "memory");
	return result;
}

static int run(long count, char **arguments)
{
	long kernel, initrd, bytes = 1, error;

	if (count != 4)
		return 64;
	kernel = call(__NR_open, (long)arguments[1], O_RDONLY, 0, 0, 0);
	initrd = call(__NR_open, (long)arguments[2], O_RDONLY, 0, 0, 0);
	while (arguments[3][bytes - 1]) /* the length includes the terminator */
		bytes++;
	error = call(__NR_kexec_file_load, kernel, initrd, bytes, (long)arguments[3], 0);
	if (error)
		return -error;
	call(__NR_sync, 0, 0, 0, 0, 0);
	return -call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, 0, 0);
}

void start(long *stack)
{
	call(__NR_exit, run(stack[0], (char **)(stack + 1)), 0, 0, 0, 0);
}

asm(".globl _start\n_start: mov %rsp, %rdi; and $-16, %rsp; call start");
