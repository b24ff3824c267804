// What the tests need on the guest and busybox does not have.
//
//   guest scenario        full queues, and refused connects of each kind; says what it did, then keeps the sockets open; goes on to more
//                         addresses than an exporter distinguishes once there is a file /run/go
//   guest cost NAME       how long connects take
//   guest nobody [CAPABILITY...] -- COMMAND...     runs a command as uid 65534 with nothing but these capabilities
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MANY 300

static void check(int good, const char *what)
{
	if (good)
		return;
	printf("guest: %s: %s\n", what, strerror(errno));
	exit(1);
}

// '@' stands for the NUL of an abstract name.
static socklen_t address(struct sockaddr_un *to, const char *name)
{
	memset(to, 0, sizeof(*to));
	to->sun_family = AF_UNIX;
	strcpy(to->sun_path, name);
	if (name[0] == '@')
		to->sun_path[0] = 0;
	return offsetof(struct sockaddr_un, sun_path) + strlen(name);
}

static int listen_at(const char *name, int backlog)
{
	struct sockaddr_un at;
	socklen_t length = address(&at, name);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	check(bind(fd, (struct sockaddr *)&at, length) == 0, name);
	check(listen(fd, backlog) == 0, name);
	return fd;
}

// 0 or the errno. A connection that was made stays open.
static int connect_to(const char *name, int flags, int more)
{
	struct sockaddr_un to;
	socklen_t length = address(&to, name) + more;
	int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);
	check(fd >= 0, "socket");
	if (connect(fd, (struct sockaddr *)&to, length) == 0)
		return 0;
	int error = errno;
	close(fd);
	return error;
}

static int connect_in_time(const char *name)
{
	struct sockaddr_un to;
	socklen_t length = address(&to, name);
	struct timeval limit = { .tv_usec = 50000 };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	int error = connect(fd, (struct sockaddr *)&to, length) == 0 ? 0 : errno;
	close(fd);
	return error;
}

static int connect_by_uring(const char *name, int flags)
{
	struct sockaddr_un to;
	socklen_t length = address(&to, name);
	struct timeval limit = { .tv_usec = 50000 };
	int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));

	struct io_uring_params params = { 0 };
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	check(ring >= 0, "io_uring_setup");
	char *queue = mmap(0, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	char *done = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
			  IORING_OFF_CQ_RING);
	struct io_uring_sqe *entries = mmap(0, params.sq_entries * sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	check(queue != MAP_FAILED && done != MAP_FAILED && entries != MAP_FAILED, "io_uring");
	entries[0] = (struct io_uring_sqe){ .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (unsigned long)&to, .off = length };
	*(unsigned *)(queue + params.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(queue + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	check(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) == 1, "io_uring_enter");
	int error = -((struct io_uring_cqe *)(done + params.cq_off.cqes))->res;
	close(ring);
	close(fd);
	return error;
}

static void expect(const char *what, int error, int wanted)
{
	if (error == wanted)
		return;
	printf("guest: %s: %s instead of %s\n", what, strerror(error), strerror(wanted));
	exit(1);
}

static void scenario(void)
{
	check(chdir("/run") == 0, "chdir");
	listen_at("/run/g.sock", 4);
	listen_at("@abstract", 1);
	listen_at("relative.sock", 0);
	listen_at("/run/unwatched.sock", 0);
	listen_at("/run/uring.sock", 0);
	check(symlink("/run/g.sock", "/run/alias.sock") == 0, "symlink");

	struct sockaddr_in tcp = { .sin_family = AF_INET, .sin_port = htons(8000), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int web = socket(AF_INET, SOCK_STREAM, 0);
	check(bind(web, (struct sockaddr *)&tcp, sizeof(tcp)) == 0 && listen(web, 3) == 0, "tcp");
	for (int i = 0; i < 3; i++)
		check(connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&tcp, sizeof(tcp)) == 0, "tcp connect");

	for (int i = 0; i < 5; i++)
		expect("accepted", connect_to("/run/g.sock", SOCK_NONBLOCK, i % 2), 0);
	for (int i = 0; i < 7; i++) // with the NUL at the end and without
		expect("refused", connect_to("/run/g.sock", SOCK_NONBLOCK, i % 2), EAGAIN);
	for (int i = 0; i < 2; i++)
		expect("timed out", connect_in_time("/run/g.sock"), EAGAIN);
	expect("io_uring timed out", connect_by_uring("/run/g.sock", 0), EAGAIN);
	expect("alias", connect_to("/run/alias.sock", SOCK_NONBLOCK, 0), EAGAIN);
	expect("nobody there", connect_to("/run/none.sock", SOCK_NONBLOCK, 0), ENOENT);

	for (int i = 0; i < 2; i++)
		expect("abstract accepted", connect_to("@abstract", SOCK_NONBLOCK, 0), 0);
	for (int i = 0; i < 4; i++)
		expect("abstract refused", connect_to("@abstract", SOCK_NONBLOCK, 0), EAGAIN);
	expect("relative accepted", connect_to("relative.sock", SOCK_NONBLOCK, 0), 0);
	for (int i = 0; i < 3; i++)
		expect("relative refused", connect_to("relative.sock", SOCK_NONBLOCK, 0), EAGAIN);
	expect("unwatched accepted", connect_to("/run/unwatched.sock", SOCK_NONBLOCK, 0), 0);
	for (int i = 0; i < 6; i++)
		expect("unwatched refused", connect_to("/run/unwatched.sock", SOCK_NONBLOCK, 0), EAGAIN);

	expect("io_uring accepted", connect_by_uring("/run/uring.sock", SOCK_NONBLOCK), 0);
	for (int i = 0; i < 3; i++)
		expect("io_uring refused", connect_by_uring("/run/uring.sock", SOCK_NONBLOCK), EAGAIN);

	if (fork() == 0) {
		check(unshare(CLONE_NEWNET) == 0, "unshare");
		for (int i = 0; i < 5; i++)
			expect("elsewhere", connect_to("/run/g.sock", SOCK_NONBLOCK, 0), EAGAIN);
		exit(0);
	}
	int status = 1;
	check(wait(&status) > 0 && status == 0, "another network namespace");
	if (fork() == 0)
		exit(connect_to("/run/g.sock", 0, 0)); // sleeps
	// More addresses than are distinguished, after the exporters have read those before.
	printf("guest: waits\n");
	fflush(stdout);
	while (access("/run/go", F_OK) != 0)
		usleep(100000);
	for (int i = 0; i < MANY; i++) {
		char name[16];
		snprintf(name, sizeof(name), "@many%d", i);
		listen_at(name, 0);
		expect("one of many accepted", connect_to(name, SOCK_NONBLOCK, 0), 0);
		expect("one of many refused", connect_to(name, SOCK_NONBLOCK, 0), EAGAIN);
	}
	printf("guest: done\n");
	fflush(stdout);
	pause();
}

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

// The best of some turns: what else the machine does only adds.
static void cost(const char *name)
{
	double made = 1, refused = 1;
	unlink("/run/cost.sock");
	int listener = listen_at("/run/cost.sock", 0);
	struct sockaddr_un to;
	socklen_t length = address(&to, "/run/cost.sock");
	for (int turn = 0; turn < 2000; turn++) {
		int first = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), second = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		double start = seconds();
		check(connect(first, (struct sockaddr *)&to, length) == 0, "cost");
		double middle = seconds();
		connect(second, (struct sockaddr *)&to, length);
		double end = seconds();
		made = middle - start < made ? middle - start : made;
		refused = end - middle < refused ? end - middle : refused;
		close(accept(listener, 0, 0));
		close(first);
		close(second);
	}
	printf("cost %s: %.1f us made, %.1f us refused\n", name, made * 1e6, refused * 1e6);
}

static void nobody(char **arguments)
{
	unsigned long long wanted = 0;
	for (; strcmp(*arguments, "--") != 0; arguments++)
		wanted |= 1ULL << atoi(*arguments);
	check(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0, "keepcaps");
	check(syscall(SYS_setgroups, 0, 0) == 0 && syscall(SYS_setgid, 65534) == 0 && syscall(SYS_setuid, 65534) == 0, "setuid");
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	for (int half = 0; half < 2; half++)
		data[half].effective = data[half].permitted = data[half].inheritable = wanted >> (32 * half);
	check(syscall(SYS_capset, &head, data) == 0, "capset");
	for (int capability = 0; capability < 64; capability++)
		if (wanted >> capability & 1)
			check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0, "ambient");
	execv(arguments[1], arguments + 1);
	check(0, arguments[1]);
}

int main(int count, char **arguments)
{
	if (count == 2 && strcmp(arguments[1], "scenario") == 0)
		scenario();
	else if (count == 3 && strcmp(arguments[1], "cost") == 0)
		cost(arguments[2]);
	else if (count > 3 && strcmp(arguments[1], "nobody") == 0)
		nobody(arguments + 2);
	return 0;
}
