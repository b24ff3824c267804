/* The least that sampling can cost: a loop that sleeps to absolute deadlines and looks one unix and some TCP listeners up through netlink, in
 * each of the network namespaces that are given.
 *
 *   loop INTERVAL_US                                 sleeps only
 *   loop INTERVAL_US [NAMESPACE UNIX_INODE PORTS]... and looks these up; NAMESPACE is a path or - for the own one, PORTS are those of
 *                                                    127.0.0.1, set apart by commas
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LISTEN = 10, PORTS = 4 };

struct unix_request {
  struct nlmsghdr header;
  struct unix_diag_req body;
};

struct tcp_request {
  struct nlmsghdr header;
  struct inet_diag_req_v2 body;
};

struct target {
  int netlink;
  struct unix_request unix_request;
  struct tcp_request tcp_requests[PORTS];
  int ports;
};

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

static void aim(struct target *target, const char *namespace, const char *inode, char *ports) {
  const int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (strcmp(namespace, "-") != 0) {
    const int other = open(namespace, O_RDONLY | O_CLOEXEC);
    if (other < 0 || setns(other, CLONE_NEWNET) != 0) fail(namespace);
    close(other);
  }
  target->netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (target->netlink < 0) fail("socket");
  if (strcmp(namespace, "-") != 0 && setns(own, CLONE_NEWNET) != 0) fail("setns");
  close(own);
  target->unix_request = (struct unix_request){
      {sizeof target->unix_request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0},
      {.sdiag_family = AF_UNIX,
       .udiag_states = -1,
       .udiag_ino = strtoul(inode, NULL, 10),
       .udiag_show = UDIAG_SHOW_RQLEN,
       .udiag_cookie = {-1, -1}},
  };
  for (char *port = strtok(ports, ","); port; port = strtok(NULL, ",")) {
    if (target->ports == PORTS) exit(2);
    struct tcp_request *request = &target->tcp_requests[target->ports++];
    *request = (struct tcp_request){
        {sizeof *request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0},
        {.sdiag_family = AF_INET,
         .sdiag_protocol = IPPROTO_TCP,
         .idiag_ext = 1 << (INET_DIAG_SKMEMINFO - 1),
         .idiag_states = -1,
         .id = {.idiag_sport = htons(atoi(port)),
                .idiag_src = {htonl(INADDR_LOOPBACK)},
                .idiag_cookie = {-1, -1}}},
    };
  }
}

static void look(struct target *target) {
  ask(target->netlink, &target->unix_request, sizeof target->unix_request,
      offsetof(struct unix_diag_msg, udiag_state));
  for (int i = 0; i < target->ports; i++)
    ask(target->netlink, &target->tcp_requests[i], sizeof target->tcp_requests[i],
        offsetof(struct inet_diag_msg, idiag_state));
}

int main(int argc, char **argv) {
  if (argc < 2 || (argc - 2) % 3 != 0) return 2;
  const long interval = atol(argv[1]) * 1000;
  const int count = (argc - 2) / 3;
  struct target *targets = calloc(count + 1, sizeof *targets);
  if (!targets) fail("memory");
  for (int i = 0; i < count; i++) aim(&targets[i], argv[2 + 3 * i], argv[3 + 3 * i], argv[4 + 3 * i]);

  struct timespec next, now;
  clock_gettime(CLOCK_MONOTONIC, &next);
  for (;;) {
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR) {
    }
    for (int i = 0; i < count; i++) look(&targets[i]);
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
