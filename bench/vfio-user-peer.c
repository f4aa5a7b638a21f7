/*
 * The least that speaks vfio-user, for comparison.
 *   vfio-user-peer server PATH           answers VERSION and REGION_READ, client after client
 *   vfio-user-peer read PATH COUNT       median nanoseconds of a REGION_READ of 4 bytes of configuration space
 *   vfio-user-peer post PATH COUNT       nanoseconds of a posted REGION_WRITE of 4 bytes, COUNT of them and a read behind
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

enum { VERSION = 1, REGION_READ = 9, REGION_WRITE = 10, REPLY = 1, NO_REPLY = 0x10, CONFIG = 7 };

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
    while (fd >= 0 && receive(fd, &h, sizeof h)) {
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
        reply.header.size = sizeof h + 20;
      }
      transmit(fd, &reply, reply.header.size);
    }
    close(fd);
  }
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
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

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "server")) serve(argv[2]);
  if (argc != 4) return 64;
  int fd = join(argv[2]);
  int count = atoi(argv[3]);
  for (int i = 0; i < 2000; i++) read_once(fd, i);
  if (!strcmp(argv[1], "read")) {
    int64_t *samples = calloc(count, sizeof *samples);
    for (int i = 0; i < count; i++) samples[i] = read_once(fd, i);
    qsort(samples, count, sizeof *samples, compare);
    printf("%lld\n", (long long)samples[count / 2]);
  } else {
    struct access post = {.header = {1, REGION_WRITE, sizeof(struct header) + 20, NO_REPLY, 0}, .offset = 0x0c, .region = CONFIG, .count = 4};
    int64_t start = now();
    for (int i = 0; i < count; i++) transmit(fd, &post, post.header.size);
    read_once(fd, 7);
    printf("%lld\n", (long long)((now() - start) / count));
  }
  return 0;
}
