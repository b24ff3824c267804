// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Counts connect() calls on unix sockets that the kernel ends with EAGAIN, by the address that the client used.
//
// Only this file is offered under these licenses: the kernel restricts its helpers to such programs.

// What libbpf's headers and this file need of linux/bpf.h, which would drag in the machine's own headers.
typedef unsigned char __u8;
typedef unsigned short __u16, __be16;
typedef unsigned int __u32, __be32, __wsum;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_NOEXIST = 1 };

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define EAGAIN 11
#define O_NONBLOCK 04000
// sun_path; the two bytes of the family come before it.
#define LONGEST_NAME 108
#define FAMILY 2
#define ADDRESSES 256
#define NAMESPACES 1024

// The parts of the kernel's types that are read here. The loader finds the offsets in the running kernel.
#define KERNEL __attribute__((preserve_access_index))
struct ns_common { unsigned int inum; } KERNEL;
struct net { struct ns_common ns; } KERNEL;
typedef struct { struct net *net; } KERNEL possible_net_t;
struct sock_common { possible_net_t skc_net; } KERNEL;
struct sock { struct sock_common __sk_common; } KERNEL;
struct file { unsigned int f_flags; } KERNEL;
struct socket { struct file *file; struct sock *sk; } KERNEL;

// The client's network namespace, and a path without the NUL that ends it, or an abstract name with the NUL that it begins with.
struct name {
	__u32 network_namespace;
	__u32 length;
	char bytes[LONGEST_NAME + 4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESSES);
	__type(key, struct name);
	__type(value, __u64);
} refused SEC(".maps");

// Refusals at addresses that occurred when the map was full, by network namespace.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NAMESPACES);
	__type(key, __u32);
	__type(value, __u64);
} overflow SEC(".maps");

// Inode of the network namespace whose clients count, 0 for all; set before the program is loaded.
const volatile __u32 network_namespace;

SEC("fexit/unix_stream_connect")
int BPF_PROG(count_refused, struct socket *socket, char *address, int length, int flags, int result)
{
	if (result != -EAGAIN)
		return 0;
	__u32 client = BPF_CORE_READ(socket, sk, __sk_common.skc_net.net, ns.inum);
	if (network_namespace != 0 && client != network_namespace)
		return 0;

	// io_uring first tries a connect that may wait without waiting, and does not report the result of that attempt.
	if ((flags ^ BPF_CORE_READ(socket, file, f_flags)) & O_NONBLOCK)
		return 0;

	struct name name = { .network_namespace = client };
	__u64 bytes = (__u32)(length - FAMILY);
	// The verifier must see that the compared value is the one that is used.
	barrier_var(bytes);
	if (bytes == 0 || bytes > LONGEST_NAME)
		return 0;
	// A path ends at its NUL, which the kernel has added if the client did not; room for it is in the key.
	long read = bpf_probe_read_kernel_str(name.bytes, LONGEST_NAME + 1, address + FAMILY);
	if (read > 1)
		name.length = read - 1;
	else if (bpf_probe_read_kernel(name.bytes, bytes, address + FAMILY) == 0)
		name.length = bytes;

	__u64 none = 0;
	bpf_map_update_elem(&refused, &name, &none, BPF_NOEXIST);
	__u64 *count = bpf_map_lookup_elem(&refused, &name);
	if (!count) {
		bpf_map_update_elem(&overflow, &client, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&overflow, &client);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
