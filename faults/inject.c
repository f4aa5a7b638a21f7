/*
 * Runs a program and makes one system call of it fail, in whichever thread it happens: seccomp asks this process about
 * each call of the chosen kind (seccomp_unotify(2)), and it answers one with an errno. Unlike LD_PRELOAD, this reaches
 * the calls that Node, V8, libuv and ffi-rs make themselves.
 *
 *   inject REPORT SECONDS record PROGRAM ARGUMENT...
 *   inject REPORT SECONDS signal NUMBER MICROSECONDS PROGRAM ARGUMENT...
 *   inject REPORT SECONDS fail NUMBER REQUEST THREAD NTH MOST ERRNO PROGRAM ARGUMENT...
 *
 * record counts all calls, and signal sends the signal NUMBER MICROSECONDS after the program has been started; neither
 * makes a call fail.
 *
 * NUMBER is the call's; REQUEST that of ioctl, or -1 for all. THREAD is main, or the name that a thread has at the call.
 * The calls NTH to NTH + MOST - 1 of that thread fail. The program is killed after SECONDS. SIGTERM, SIGINT, SIGHUP and
 * SIGUSR2 go on to the program. Not counted, as the errnos of their manual pages cannot happen: reads and writes of
 * eventfds and pipes, through which Node's threads wake each other, those of stdout and stderr, and FUTEX_WAKE. REPORT receives lines:
 *
 *   calls COUNT NUMBER REQUEST THREAD    recorded calls
 *   failed COUNT                         how many calls were made to fail
 *   caller FILE                          whose code made the first of them, apart from libc: node, ffi-rs.node
 *   late                                 the program was killed
 *   left COMMAND                         a process that outlived the program, now killed
 *   early                                when the signal was sent, the program had no handler for SIGUSR2
 *   took MILLISECONDS
 *   exit STATUS | signal NUMBER          how the program ended
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

#define MAX_KINDS 4096
#define NAME_BYTES 32
#define FILE_BYTES 256
#define STACK_WORDS 128
#define ANY_REQUEST (-1L)
/* How long processes that the program started may take to end after it. */
#define ORPHAN_MS 1000

struct kind {
	long number, request, count;
	char thread[NAME_BYTES];
};

static struct kind kinds[MAX_KINDS];
static int kind_count;
static pid_t child;
static volatile sig_atomic_t forwarded;

static void die(const char *what)
{
	fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void forward(int sig)
{
	forwarded = sig;
	if (child > 0)
		kill(child, sig);
}

static long now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static long now_ms(void)
{
	return now_us() / 1000;
}

/* Calls that no filter of ours may hold up: they end a thread, or return from a signal handler. */
static const int never[] = { SYS_exit, SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall };
#define NEVER (sizeof(never) / sizeof(never[0]))

#define NUMBER_AT offsetof(struct seccomp_data, nr)
#define ARGUMENT_AT(i) offsetof(struct seccomp_data, args[i])
#define LOAD(at) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at)
#define IF_EQUAL(k, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, yes, no)
#define IF_ABOVE(k, yes, no) BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, k, yes, no)
#define RETURN(k) BPF_STMT(BPF_RET | BPF_K, k)

static int install(struct sock_filter *code, size_t length)
{
	struct sock_fprog program = { .len = length, .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		       SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
}

static int install_for_all(void)
{
	struct sock_filter code[NEVER * 2 + 2];
	size_t n = 0;

	code[n++] = (struct sock_filter)LOAD(NUMBER_AT);
	for (size_t i = 0; i < NEVER; i++) {
		code[n++] = (struct sock_filter)IF_EQUAL(never[i], 0, 1);
		code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
	}
	code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_USER_NOTIF);
	return install(code, n);
}

static int install_for(long number, long request)
{
	struct sock_filter code[8];
	size_t n = 0;

	code[n++] = (struct sock_filter)LOAD(NUMBER_AT);
	code[n++] = (struct sock_filter)IF_EQUAL(number, 1, 0);
	code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
	if (request != ANY_REQUEST) {
		code[n++] = (struct sock_filter)LOAD(ARGUMENT_AT(1));
		code[n++] = (struct sock_filter)IF_EQUAL((unsigned int)request, 1, 0);
		code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
	}
	code[n++] = (struct sock_filter)RETURN(SECCOMP_RET_USER_NOTIF);
	return install(code, n);
}

/* Name of a thread of the program; false for one of another process. */
static int name_of(pid_t tid, char *name)
{
	char path[64];
	int fd;
	ssize_t got;

	if (tid == child) {
		strcpy(name, "main");
		return 1;
	}
	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", child, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	got = read(fd, name, NAME_BYTES - 1);
	close(fd);
	if (got <= 0)
		return 0;
	name[strcspn(name, "\n") < (size_t)got ? strcspn(name, "\n") : (size_t)got - 1] = '\0';
	for (char *c = name; *c != '\0'; c++)
		if (*c == ' ' || *c == ':')
			*c = '_';
	return 1;
}

/* The file that is mapped, executable, at an address of the program; false if it is none, or libc, which all go through. */
static int file_at(unsigned long address, char *file)
{
	char path[64], line[512];
	int is_found = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", child);
	maps = fopen(path, "re");
	if (maps == NULL)
		return 0;
	while (!is_found && fgets(line, sizeof(line), maps) != NULL) {
		unsigned long start, end;
		char rights[8], *slash = strrchr(line, '/');

		if (sscanf(line, "%lx-%lx %7s", &start, &end, rights) != 3 || rights[2] != 'x')
			continue;
		if (address < start || address >= end || slash == NULL || strncmp(slash, "/libc.so", 8) == 0)
			continue;
		snprintf(file, FILE_BYTES, "%.*s", (int)strcspn(slash + 1, "\n"), slash + 1);
		is_found = 1;
	}
	fclose(maps);
	return is_found;
}

/* Finds who called libc: the first return address on the waiting thread's stack that is not libc's own. */
static void find_caller(pid_t tid, char *file)
{
	char path[64], line[256] = "";
	unsigned long sp, words[STACK_WORDS];
	FILE *call;
	ssize_t got;
	char *last;

	strcpy(file, "unknown");
	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", child, tid);
	call = fopen(path, "re");
	if (call == NULL)
		return;
	if (fgets(line, sizeof(line), call) == NULL)
		line[0] = '\0';
	fclose(call);
	/* "NUMBER ARGUMENTS SP PC" */
	last = strrchr(line, ' ');
	if (last == NULL)
		return;
	*last = '\0';
	last = strrchr(line, ' ');
	if (last == NULL)
		return;
	sp = strtoul(last + 1, NULL, 0);
	got = process_vm_readv(child, &(struct iovec){ words, sizeof(words) }, 1,
			       &(struct iovec){ (void *)sp, sizeof(words) }, 1, 0);
	for (long i = 0; i < got / (ssize_t)sizeof(words[0]); i++)
		if (file_at(words[i], file))
			return;
}

/* Whether a call can fail as the manual page of its kind says. */
static int can_fail(const struct seccomp_data *call)
{
	char path[64], file[64] = "";
	int operation = call->args[1] & FUTEX_CMD_MASK;

	if (call->nr == SYS_futex)
		return operation == FUTEX_WAIT || operation == FUTEX_WAIT_BITSET;
	if (call->nr != SYS_read && call->nr != SYS_write)
		return 1;
	if (call->args[0] == STDOUT_FILENO || call->args[0] == STDERR_FILENO)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", child, (int)call->args[0]);
	return readlink(path, file, sizeof(file) - 1) < 0 ||
	       (strncmp(file, "anon_inode:[eventfd]", 20) != 0 && strncmp(file, "pipe:", 5) != 0);
}

static void record(long number, long request, const char *thread)
{
	for (int i = 0; i < kind_count; i++) {
		struct kind *k = &kinds[i];

		if (k->number == number && k->request == request && strcmp(k->thread, thread) == 0) {
			k->count++;
			return;
		}
	}
	if (kind_count == MAX_KINDS)
		return;
	kinds[kind_count] = (struct kind){ number, request, 1, "" };
	strcpy(kinds[kind_count++].thread, thread);
}

/* Whether the program handles a signal. */
static int is_caught(int number)
{
	char path[64], line[256];
	unsigned long mask = 0;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%d/status", child);
	status = fopen(path, "re");
	if (status == NULL)
		return 0;
	while (fgets(line, sizeof(line), status) != NULL)
		if (sscanf(line, "SigCgt: %lx", &mask) == 1)
			break;
	fclose(status);
	return (mask >> (number - 1)) & 1;
}

/* Kills what the program left behind; we are its parent now. */
static void end_orphans(FILE *report)
{
	long deadline = now_ms() + ORPHAN_MS;
	char path[64], command[256];

	for (;;) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0)
			return;
		if (pid > 0)
			continue;
		if (now_ms() > deadline)
			break;
		usleep(10000);
	}
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	for (FILE *children = fopen(path, "r"); children != NULL; children = NULL) {
		int pid;

		while (fscanf(children, "%d", &pid) == 1) {
			FILE *comm;

			snprintf(path, sizeof(path), "/proc/%d/comm", pid);
			comm = fopen(path, "r");
			if (comm == NULL || fgets(command, sizeof(command), comm) == NULL)
				strcpy(command, "?\n");
			if (comm != NULL)
				fclose(comm);
			fprintf(report, "left %s", command);
			kill(pid, SIGKILL);
		}
		fclose(children);
	}
	while (waitpid(-1, NULL, 0) > 0)
		;
}

int main(int argc, char **argv)
{
	int is_record = argc > 4 && strcmp(argv[3], "record") == 0;
	int is_signal = argc > 6 && strcmp(argv[3], "signal") == 0;
	int first = is_record ? 4 : is_signal ? 6 : 10;
	long number = 0, wanted = ANY_REQUEST, nth = 0, most = 0, error = 0, failed = 0, seen = 0, deadline, start, signal_at = 0;
	const char *wanted_thread = "";
	char caller[FILE_BYTES] = "";
	volatile int *listener_number;
	struct seccomp_notif_sizes sizes;
	struct seccomp_notif *asked;
	struct seccomp_notif_resp *answer;
	siginfo_t stopped;
	struct sigaction action = { .sa_handler = forward };
	int listener = -1, pidfd, status, is_late = 0, has_hung_up = 0;
	FILE *report;

	if (argc <= first) {
		fprintf(stderr, "usage: inject REPORT SECONDS record|fail ...\n");
		return 125;
	}
	if (is_signal) {
		number = atol(argv[4]);
		signal_at = atol(argv[5]);
	} else if (!is_record) {
		number = atol(argv[4]);
		wanted = strtol(argv[5], NULL, 0);
		wanted_thread = argv[6];
		nth = atol(argv[7]);
		most = atol(argv[8]);
		error = atol(argv[9]);
	}
	report = fopen(argv[1], "we");
	if (report == NULL)
		die(argv[1]);
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		die("PR_SET_CHILD_SUBREAPER");
	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
		die("SECCOMP_GET_NOTIF_SIZES");
	asked = calloc(1, sizes.seccomp_notif);
	answer = calloc(1, sizes.seccomp_notif_resp);
	/* The descriptor's number comes by memory: a call that sends it might be one that the filter holds up. */
	listener_number = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (listener_number == MAP_FAILED)
		die("mmap");
	start = now_us();
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		int fd;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (is_signal) {
			execvp(argv[first], argv + first);
			_exit(125);
		}
		fd = is_record ? install_for_all() : install_for(number, wanted);
		*listener_number = fd < 0 ? -errno : fd;
		/* Closed by execve; and no call may be made before the other side has it. */
		while (fd >= 0 && listener_number[1] == 0)
			__builtin_ia32_pause();
		if (fd >= 0)
			execvp(argv[first], argv + first);
		_exit(125);
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	while (!is_signal && *listener_number == 0)
		usleep(100);
	errno = -*listener_number;
	if (*listener_number < 0)
		die("seccomp");
	pidfd = syscall(SYS_pidfd_open, child, 0);
	if (pidfd < 0)
		die("pidfd_open");
	if (is_signal) {
		while (now_us() < start + signal_at)
			usleep(100);
		/* Stopped meanwhile, so that the answer is still true when the signal comes. */
		kill(child, SIGSTOP);
		for (int i = 0; i < 200 && waitid(P_PIDFD, pidfd, &stopped, WSTOPPED | WEXITED | WNOWAIT) < 0; i++)
			;
		if (!is_caught(SIGUSR2))
			fprintf(report, "early\n");
		kill(child, number);
		kill(child, SIGCONT);
	} else {
		listener = syscall(SYS_pidfd_getfd, pidfd, *listener_number, 0);
		if (listener < 0)
			die("pidfd_getfd");
		fcntl(listener, F_SETFD, FD_CLOEXEC);
		listener_number[1] = 1;
		/* Optional: the asking thread and this one take turns anyway. */
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	}

	deadline = now_ms() + atol(argv[2]) * 1000;
	for (;;) {
		struct pollfd fds[2] = { { pidfd, POLLIN, 0 }, { has_hung_up ? -1 : listener, POLLIN, 0 } };
		char thread[NAME_BYTES];
		long left = deadline - now_ms(), request;

		if (left <= 0 && !is_late) {
			is_late = 1;
			kill(child, SIGKILL);
		}
		if (poll(fds, 2, left > 0 ? left : 100) < 0)
			continue;
		if (fds[1].revents & POLLIN) {
			memset(asked, 0, sizes.seccomp_notif);
			if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, asked) < 0)
				continue;
			memset(answer, 0, sizes.seccomp_notif_resp);
			answer->id = asked->id;
			answer->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
			request = asked->data.nr == SYS_ioctl ? (long)(unsigned int)asked->data.args[1] : ANY_REQUEST;
			if (can_fail(&asked->data) && name_of(asked->pid, thread)) {
				if (is_record)
					record(asked->data.nr, request, thread);
				else if (strcmp(thread, wanted_thread) == 0 && ++seen >= nth && seen < nth + most) {
					if (failed == 0)
						find_caller(asked->pid, caller);
					answer->flags = 0;
					answer->error = -error;
					failed++;
				}
			}
			ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, answer);
			continue;
		}
		if (fds[1].revents & (POLLHUP | POLLERR))
			has_hung_up = 1;
		if (fds[0].revents & POLLIN)
			break;
	}
	waitpid(child, &status, 0);
	child = 0;
	/* Others that have the filter would wait for an answer for ever: closing it makes their calls fail. */
	if (listener >= 0)
		close(listener);
	end_orphans(report);
	for (int i = 0; i < kind_count; i++)
		fprintf(report, "calls %ld %ld %ld %s\n", kinds[i].count, kinds[i].number, kinds[i].request, kinds[i].thread);
	fprintf(report, "failed %ld\ncaller %s\n", failed, caller);
	if (is_late)
		fprintf(report, "late\n");
	fprintf(report, "took %ld\n", (now_us() - start) / 1000);
	if (WIFSIGNALED(status))
		fprintf(report, "signal %d\n", WTERMSIG(status));
	else
		fprintf(report, "exit %d\n", WEXITSTATUS(status));
	return fclose(report) == 0 ? 0 : 125;
}
