/* How a sidecar finds queues in the list of established connections: at each interval it lists the IPv4 sockets that listen on 0.0.0.0 and all
 * established ones, and counts those of a listening port that no process has yet. errm/promenade works like this, with 25 ms.
 *
 *   dump INTERVAL_US       prints "PORT QUEUED" whenever more are queued at a port than before
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { ESTABLISHED = 1, LISTEN = 10, EVERY_PORT = 65536 };

static char buffer[65536];
static int netlink, ports;
/* The ports that listen, and of each port whether it is one of them, its connections now, and the most so far. */
static unsigned short listening[EVERY_PORT];
static char listens[EVERY_PORT];
static unsigned queued[EVERY_PORT], peak[EVERY_PORT];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void listener(const struct inet_diag_msg *row) {
  const unsigned short port = ntohs(row->id.idiag_sport);
  if (row->id.idiag_src[0] != htonl(INADDR_ANY) || listens[port]) return;
  listens[port] = 1;
  listening[ports++] = port;
}

static void connection(const struct inet_diag_msg *row) {
  const unsigned short port = ntohs(row->id.idiag_sport);
  if (row->idiag_inode == 0 && listens[port]) queued[port]++;
}

static void dump(int state, void each(const struct inet_diag_msg *)) {
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 body;
  } request = {
      {sizeof request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0},
      {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1u << state},
  };
  if (send(netlink, &request, sizeof request, 0) != sizeof request) fail("send");
  for (;;) {
    ssize_t got = recv(netlink, buffer, sizeof buffer, 0);
    if (got < 0) fail("recv");
    for (const struct nlmsghdr *row = (const void *)buffer; NLMSG_OK(row, got); row = NLMSG_NEXT(row, got)) {
      if (row->nlmsg_type == NLMSG_DONE) return;
      if (row->nlmsg_type == NLMSG_ERROR) fail("answer");
      each(NLMSG_DATA(row));
    }
  }
}

static void sample(void) {
  ports = 0;
  dump(LISTEN, listener);
  dump(ESTABLISHED, connection);
  for (int i = 0; i < ports; i++) {
    const unsigned short port = listening[i];
    if (queued[port] > peak[port]) {
      peak[port] = queued[port];
      printf("%d %u\n", port, peak[port]);
      fflush(stdout);
    }
    listens[port] = queued[port] = 0;
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  const long interval = atol(argv[1]) * 1000;
  netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (netlink < 0) fail("socket");
  struct timespec next, now;
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (;;) {
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR) {
    }
    sample();
    clock_gettime(CLOCK_MONOTONIC, &now);
    do {
      next.tv_nsec += interval;
      while (next.tv_nsec >= 1000000000) {
        next.tv_nsec -= 1000000000;
        next.tv_sec++;
      }
    } while (next.tv_sec < now.tv_sec || (next.tv_sec == now.tv_sec && next.tv_nsec < now.tv_nsec));
  }
}
