/* The application whose latency is measured: connects to its own unix socket, accepts and closes, over and over.
 *
 *   traffic PATH      for each line "SECONDS" of its input it runs so long and prints "RATE P50 P99 P999": per second, and nanoseconds
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { SLOT_NS = 50, SLOTS = 1 << 20 };

static unsigned counts[SLOTS];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* The time that this part of all took at most. */
static long long quantile(long long all, double part) {
  long long left = all * part;
  for (int slot = 0; slot < SLOTS; slot++) {
    if (left < counts[slot]) return (long long)(slot + 1) * SLOT_NS;
    left -= counts[slot];
  }
  return (long long)SLOTS * SLOT_NS;
}

int main(int argc, char **argv) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (listener < 0 || bind(listener, (void *)&address, sizeof address) != 0 || listen(listener, 128) != 0) fail(argv[1]);
  puts("ready");
  fflush(stdout);
  double seconds;
  while (scanf("%lf", &seconds) == 1) {
    memset(counts, 0, sizeof counts);
    long long all = 0, start = now(), end = start + seconds * 1e9, before = start;
    while (before < end) {
      const int client = socket(AF_UNIX, SOCK_STREAM, 0);
      before = now();
      if (connect(client, (void *)&address, sizeof address) != 0) fail("connect");
      const int server = accept(listener, NULL, NULL);
      if (server < 0) fail("accept");
      const long long took = now() - before;
      close(server);
      close(client);
      counts[took / SLOT_NS < SLOTS ? took / SLOT_NS : SLOTS - 1]++;
      all++;
    }
    const double elapsed = (now() - start) / 1e9;
    printf("%.0f %lld %lld %lld\n", all / elapsed, quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.999));
    fflush(stdout);
  }
}
