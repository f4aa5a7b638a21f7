/*
 * A minimal vfio-user client and server, for comparison.
 *   vfio-user-peer server PATH           answers VERSION, DMA_MAP, REGION_READ, and REGION_WRITE of BAR 0, one client at a time
 *   vfio-user-peer read PATH COUNT       nanoseconds of each REGION_READ of 4 bytes of configuration space, a line for each
 *   vfio-user-peer post PATH COUNT       nanoseconds of a posted REGION_WRITE of 4 bytes: COUNT writes, then one read
 *   vfio-user-peer dma PATH COUNT BYTES fd|message
 *                                        nanoseconds of the server's read of BYTES of our memory: shared, or with DMA_READ
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct header {
  uint16_t id, command;
  uint32_t size, flags, error;
};
struct access {
  struct header header;
  uint64_t offset;
  uint32_t region, count;
  uint32_t data;
};

/* BAR 0 reads memory: ADDRESS (64 bits), BYTES, GO (number of reads), CHECK (first byte, last byte). */
enum { ADDRESS = 0, BYTES = 8, GO = 12, CHECK = 16 };
enum { MEMORY_AT = 0x100000, MEMORY_BYTES = 1 << 20 };

struct dma_map {
  uint32_t argsz, flags;
  uint64_t offset, iova, size;
};
struct dma_read {
  uint64_t address, count;
};

enum { VERSION = 1, DMA_MAP = 2, REGION_READ = 9, REGION_WRITE = 10, DMA_READ = 11, REPLY = 1, NO_REPLY = 0x10, CONFIG = 7 };

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int receive(int fd, void *to, size_t bytes) {
  ssize_t got = recv(fd, to, bytes, MSG_WAITALL);
  if (got == 0 || (got < 0 && errno == ECONNRESET)) return 0;
  if (got != (ssize_t)bytes) fail("recv");
  return 1;
}

static void transmit(int fd, const void *from, size_t bytes) {
  if (send(fd, from, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) fail("send");
}

/* A header and an optional descriptor. */
static int receive_header(int socket, struct header *h, int *fd) {
  char control[CMSG_SPACE(sizeof(int))];
  struct iovec iov = {h, sizeof *h};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t got = recvmsg(socket, &m, MSG_WAITALL);
  if (got == 0 || (got < 0 && errno == ECONNRESET)) return 0;
  if (got != sizeof *h) fail("recvmsg");
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  if (c && c->cmsg_type == SCM_RIGHTS) memcpy(fd, CMSG_DATA(c), sizeof *fd);
  return 1;
}

static void transmit_with_fd(int socket, const void *from, size_t bytes, int fd) {
  union {
    struct cmsghdr head;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {.head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
  struct iovec iov = {(void *)from, bytes};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
  if (sendmsg(socket, &m, MSG_NOSIGNAL) != (ssize_t)bytes) fail("sendmsg");
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static struct sockaddr_un address(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  strncpy(a.sun_path, path, sizeof a.sun_path - 1);
  return a;
}

/* The client's memory, and BAR 0. */
static struct {
  char *shared; /* NULL: not shared, read with DMA_READ */
  uint64_t iova, address;
  uint32_t bytes;
  char buffer[MEMORY_BYTES];
} engine;

static void ask_for_memory(int socket) {
  struct {
    struct header header;
    struct dma_read read;
  } ask = {{1, DMA_READ, sizeof ask, 0, 0}, {engine.address, engine.bytes}}, reply;
  transmit(socket, &ask, sizeof ask);
  if (!receive(socket, &reply, sizeof reply) || reply.header.flags != REPLY) fail("DMA_READ");
  if (!receive(socket, engine.buffer, engine.bytes)) fail("DMA_READ");
}

static void write_engine(int socket, uint64_t at, const char *data) {
  uint32_t times = 0;
  if (at == ADDRESS) memcpy(&engine.address, data, 8);
  else if (at == BYTES) memcpy(&engine.bytes, data, 4);
  else if (at == GO) memcpy(&times, data, 4);
  while (times-- > 0) {
    if (!engine.shared) ask_for_memory(socket);
    else memcpy(engine.buffer, engine.shared + (engine.address - engine.iova), engine.bytes);
    __asm__ volatile("" ::: "memory"); /* keep each copy */
  }
}

static void map_memory(const struct dma_map *map, int fd) {
  if (engine.shared) munmap(engine.shared, MEMORY_BYTES);
  engine.shared = NULL;
  engine.iova = map->iova;
  if (fd < 0) return;
  void *at = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, map->offset);
  if (at == MAP_FAILED) fail("mmap");
  engine.shared = at;
  close(fd);
}

static void serve(const char *path) {
  struct sockaddr_un a = address(path);
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  unlink(path);
  if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 4) < 0) fail(path);
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    struct header h;
    static char body[1 << 16];
    for (int got = -1; fd >= 0 && receive_header(fd, &h, &got); got = -1) {
      if (h.size < sizeof h || h.size > sizeof body) break;
      if (h.size > sizeof h && !receive(fd, body, h.size - sizeof h)) break;
      if (h.flags & NO_REPLY) continue;
      struct access reply = {.header = {h.id, h.command, sizeof h, REPLY, 0}};
      if (h.command == VERSION) {
        reply.header.size = sizeof h + 4;
        reply.offset = 0; /* version 0.0 */
      } else if (h.command == REGION_READ) {
        memcpy(&reply.offset, body, 16);
        reply.data = 0x12345678;
        if (reply.region == 0) reply.data = (uint8_t)engine.buffer[0] | (uint8_t)engine.buffer[engine.bytes - 1] << 8;
        reply.header.size = sizeof h + 20;
      } else if (h.command == DMA_MAP) {
        map_memory((struct dma_map *)body, got);
      } else if (h.command == REGION_WRITE) {
        memcpy(&reply.offset, body, 16);
        if (reply.region == 0) write_engine(fd, reply.offset, body + 16);
        reply.header.size = sizeof h + 16;
      }
      transmit(fd, &reply, reply.header.size);
    }
    close(fd);
  }
}

static int64_t read_once(int fd, uint16_t id) {
  struct access ask = {.header = {id, REGION_READ, sizeof(struct header) + 16, 0, 0}, .region = CONFIG, .count = 4};
  struct access reply;
  int64_t start = now();
  transmit(fd, &ask, ask.header.size);
  if (!receive(fd, &reply, sizeof(struct header) + 20)) fail("the server is gone");
  if (reply.header.id != id || reply.header.flags != REPLY) fail("an answer that is none");
  return now() - start;
}

static int join(const char *path) {
  struct sockaddr_un a = address(path);
  struct {
    struct header header;
    uint16_t major, minor;
  } version = {{1, VERSION, 20, 0, 0}, 0, 1};
  struct header h;
  static char body[4096];
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) fail(path);
  transmit(fd, &version, 20);
  if (!receive(fd, &h, sizeof h) || h.size > sizeof body || !receive(fd, body, h.size - sizeof h)) fail("version");
  return fd;
}

/* Sends a command and waits for its reply; meanwhile serves the server's requests for our memory. */
static void command(int socket, const void *message, int fd, const char *memory) {
  static struct {
    struct header header;
    struct dma_read read;
    char data[MEMORY_BYTES];
  } m;
  const struct header *asked = message;
  if (fd >= 0) transmit_with_fd(socket, message, asked->size, fd);
  else transmit(socket, message, asked->size);
  for (;;) {
    if (!receive(socket, &m.header, sizeof m.header) || m.header.size > sizeof m) fail("the server is gone");
    if (m.header.size > sizeof m.header && !receive(socket, &m.read, m.header.size - sizeof m.header)) fail("a message");
    if (m.header.flags == REPLY) return;
    if (m.header.command != DMA_READ || m.header.flags) fail("neither an answer nor a DMA_READ");
    if (m.read.address < MEMORY_AT || m.read.address + m.read.count > MEMORY_AT + MEMORY_BYTES) fail("an address");
    memcpy(m.data, memory + (m.read.address - MEMORY_AT), m.read.count);
    m.header.flags = REPLY;
    m.header.size = sizeof m.header + sizeof m.read + m.read.count;
    transmit(socket, &m, m.header.size);
  }
}

static int measure_dma(int socket, int count, uint32_t bytes, int is_shared) {
  int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, MEMORY_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0) fail("memfd");
  char *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) fail("mmap");
  memory[0] = 0x5a;
  memory[bytes - 1] = 0x3c;
  struct {
    struct header header;
    struct dma_map map;
  } map = {{1, DMA_MAP, sizeof map, 0, 0}, {sizeof map.map, 3, 0, MEMORY_AT, MEMORY_BYTES}};
  command(socket, &map, is_shared ? fd : -1, memory);
  struct {
    struct header header;
    uint64_t offset;
    uint32_t region, count;
    uint64_t data;
  } write = {{2, REGION_WRITE, sizeof write, 0, 0}, ADDRESS, 0, 8, MEMORY_AT};
  command(socket, &write, -1, memory);
  const uint32_t words[3][2] = {{BYTES, bytes}, {GO, 100}, {GO, count}}; /* the first run warms up */
  int64_t start = 0;
  for (int i = 0; i < 3; i++) {
    write.header.size = sizeof write - 4;
    write.count = 4;
    write.offset = words[i][0];
    write.data = words[i][1];
    start = now();
    command(socket, &write, -1, memory);
  }
  int64_t took = now() - start;
  struct access ask = {.header = {9, REGION_READ, sizeof(struct header) + 16, 0, 0}, .offset = CHECK, .count = 4}, reply;
  transmit(socket, &ask, ask.header.size);
  if (!receive(socket, &reply, sizeof(struct header) + 20)) fail("the server is gone");
  if (reply.data != (bytes == 1 ? 0x3c3c : 0x3c5a)) {
    fprintf(stderr, "the server did not read our memory: %x\n", reply.data);
    return 1;
  }
  printf("%lld\n", (long long)(took / count));
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "server")) serve(argv[2]);
  int is_dma = argc == 6 && !strcmp(argv[1], "dma");
  if (argc != 4 && !is_dma) return 64;
  int fd = join(argv[2]);
  int count = atoi(argv[3]);
  if (is_dma) return measure_dma(fd, count, atoi(argv[4]), !strcmp(argv[5], "fd"));
  for (int i = 0; i < 2000; i++) read_once(fd, i);
  if (!strcmp(argv[1], "read")) {
    int64_t *samples = calloc(count, sizeof *samples);
    for (int i = 0; i < count; i++) samples[i] = read_once(fd, i);
    for (int i = 0; i < count; i++) printf("%lld\n", (long long)samples[i]);
  } else {
    struct access post = {.header = {1, REGION_WRITE, sizeof(struct header) + 20, NO_REPLY, 0}, .offset = 0x0c, .region = CONFIG, .count = 4};
    int64_t start = now();
    for (int i = 0; i < count; i++) transmit(fd, &post, post.header.size);
    read_once(fd, 7);
    printf("%lld\n", (long long)((now() - start) / count));
  }
  return 0;
}
