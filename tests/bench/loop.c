/* The least that sampling can cost: a loop that sleeps to absolute deadlines and, unless told to do nothing, looks one unix and one
 * TCP listener up through netlink.
 *
 *   loop INTERVAL_US                       sleeps only
 *   loop INTERVAL_US UNIX_INODE TCP_PORT   and looks the two up (the TCP one on 127.0.0.1)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { LISTEN = 10 };

static char buffer[32768];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

/* Sends a request and checks that the answer is a socket that listens. */
static void ask(int netlink, const void *request, size_t length, size_t state_at) {
  if (send(netlink, request, length, 0) != (ssize_t)length) fail("send");
  ssize_t got = recv(netlink, buffer, sizeof buffer, MSG_TRUNC);
  const struct nlmsghdr *header = (const void *)buffer;
  if (got < (ssize_t)sizeof *header || header->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
    errno = EPROTO;
    fail("answer");
  }
  const unsigned char *body = NLMSG_DATA(header);
  if (body[state_at] != LISTEN) {
    errno = ENOTCONN;
    fail("answer of another state");
  }
}

int main(int argc, char **argv) {
  if (argc != 2 && argc != 4) return 2;
  const long interval = atol(argv[1]) * 1000;
  const int looks_up = argc == 4;

  struct {
    struct nlmsghdr header;
    struct unix_diag_req body;
  } unix_request = {
      {sizeof unix_request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0},
      {.sdiag_family = AF_UNIX,
       .udiag_states = -1,
       .udiag_ino = looks_up ? strtoul(argv[2], NULL, 10) : 0,
       .udiag_show = UDIAG_SHOW_RQLEN,
       .udiag_cookie = {-1, -1}},
  };
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 body;
  } tcp_request = {
      {sizeof tcp_request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0},
      {.sdiag_family = AF_INET,
       .sdiag_protocol = IPPROTO_TCP,
       .idiag_ext = 1 << (INET_DIAG_SKMEMINFO - 1),
       .idiag_states = -1,
       .id = {.idiag_sport = htons(looks_up ? atoi(argv[3]) : 0),
              .idiag_src = {htonl(INADDR_LOOPBACK)},
              .idiag_cookie = {-1, -1}}},
  };
  const int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (netlink < 0) fail("socket");

  struct timespec next, now;
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (;;) {
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR) {
    }
    if (looks_up) {
      ask(netlink, &unix_request, sizeof unix_request, offsetof(struct unix_diag_msg, udiag_state));
      ask(netlink, &tcp_request, sizeof tcp_request, offsetof(struct inet_diag_msg, idiag_state));
    }
    /* After a stop, on to the first deadline that is still ahead. */
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
