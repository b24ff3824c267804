// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// How deep the queue of one unix socket is at each connect, as a histogram with powers of two. cloudflare/ebpf_exporter's example
// unix-socket-backlog works like this: the path is compiled in.
//
// This file is offered under these licenses: the kernel lends its helpers to no other program.

// What libbpf's headers and this file need of the kernel's own.
typedef unsigned char __u8;
typedef unsigned short __u16, __be16;
typedef unsigned int __u32, __be32, __wsum;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
enum { BPF_MAP_TYPE_ARRAY = 2, BUCKETS = 18 };

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define OF_THE_KERNEL __attribute__((preserve_access_index))

struct net;
struct sockaddr_un {
  char sun_path[108];
} OF_THE_KERNEL;
struct sk_buff_head {
  __u32 qlen;
} OF_THE_KERNEL;
struct sock {
  struct sk_buff_head sk_receive_queue;
} OF_THE_KERNEL;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, BUCKETS);
  __type(key, __u32);
  __type(value, __u64);
} depths SEC(".maps");

SEC("fexit/unix_find_other")
int BPF_PROG(found, struct net *net, struct sockaddr_un *address) {
  const char path[] = WATCHED;
  for (unsigned i = 0; i < sizeof path; i++)
    if (address->sun_path[i] != path[i]) return 0;
  // How many arguments come before what it returned depends on the kernel: since Linux 6.16 there is one more.
  __u64 other;
  if (bpf_get_func_ret(ctx, &other) != 0) return 0;
  __u32 depth = BPF_CORE_READ((struct sock *)other, sk_receive_queue.qlen), bucket = 0;
  while (bucket < BUCKETS - 1 && (1u << bucket) <= depth) bucket++;
  __u64 *count = bpf_map_lookup_elem(&depths, &bucket);
  if (count) __sync_fetch_and_add(count, 1);
  return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
