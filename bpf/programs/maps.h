/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel and user space share: the tables and the layout of their rows.
 *
 * bpf/l7bpf/{layouts,flows}.py have a twin of every struct; tests/bpf/test_layouts.py holds the two equal.
 * bpf/l7bpf/loader.py makes the tables as they are declared here, but for those that are CONFIGURED:
 * bpf/l7bpf/mapspecs.py names what says their size.
 */
#pragma once

/* IPv6 as it is; IPv4 in the last word after three zero words. Network byte order. */
struct address {
	union {
		__be32 word[4];
		u64 half[2];
	};
};

struct endpoint {
	u32 policy_id;
	u32 identity;
	u32 ifindex;
	u32 flags;
};
#define ENDPOINT_ENFORCE_EGRESS	 1
#define ENDPOINT_ENFORCE_INGRESS 2
#define ENDPOINT_AUDIT		 4 /* what its policy denies passes, and is reported */

#define HOST_ENDPOINT 65535 /* the node itself: there only while some policy selects it */

struct address_key {
	u32 family; /* 4 or 6 */
	__be32 word[4];
};

struct ipcache_key {
	u32 prefixlen; /* 32 for the family + 128, or fewer for a prefix */
	u32 family;
	struct address address;
};

struct ipcache_entry {
	u32 identity;
	u32 established; /* what flows that have begun already go by, or 0: by `identity` too */
};

struct policy_key {
	u32 prefixlen; /* 72 + 0: any protocol, + 8: any port, + 8 + k: k bits of the port */
	u32 policy_id;
	u32 identity; /* of the remote side; 0: anybody */
	u8 direction;
	u8 protocol;
	__be16 port;
	/* Never compared. A trie's row begins where its key ends: without this, the counters would not
	 * be aligned, and an atomic addition across two cache lines stops the whole machine's memory
	 * (a microsecond here; a panic where the kernel detects split locks). */
	u32 pad;
};
#define POLICY_PREFIX_FULL (72 + 8 + 16)

struct policy_entry {
	u64 cookie;  /* names the rule */
	u64 packets; /* judged by this entry: the first of each flow and revision */
	u64 bytes;
	u32 precedence;
	u8 verdict;
	u8 proxy;
	u16 pad;
};
#define POLICY_ALLOW	0
#define POLICY_DENY	1
#define POLICY_REDIRECT 2

/* The tuple of the side that began. ICMP echo: source_port = id; other ICMP: source_port = type. */
struct conntrack_key {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	u8 protocol;
	u8 family;
	u16 pad;
};

struct conntrack_entry {
	u64 last_seen_ns; /* CLOCK_MONOTONIC_COARSE */
	u64 packets;
	u64 bytes;
	u32 revision; /* under which the flow was judged */
	u8 proxy;     /* which proxy its packets go to */
	u8 upstream;  /* a proxy's socket uses this tuple: replies go to the proxy */
	u8 flags;
	u8 state; /* of TCP. Apart from `flags`: every packet may write it, verdicts may not suffer */
};
/* Of flags */
#define CONNTRACK_LOCAL	    1 /* both ends are on this node: no uplink may carry it */
#define CONNTRACK_FROM_NODE 2 /* begun by the node itself, which no ingress policy limits */
#define CONNTRACK_DENIED    4 /* was allowed, no longer is: judged packet by packet until a SYN */
#define CONNTRACK_GUESSED   8 /* met half way: which side began is a guess, good for one revision */
/* Of state */
#define CONNTRACK_ANSWERED   1 /* packets were seen in both directions */
#define CONNTRACK_FIN	     2 /* of the side that began */
#define CONNTRACK_FIN_ANSWER 4
#define CONNTRACK_FINS	     (CONNTRACK_FIN | CONNTRACK_FIN_ANSWER)
#define CONNTRACK_RESET	     8

/* One packet's fragments as one program sees them on one interface. */
struct fragment_key {
	struct address source;
	struct address destination;
	__be32 id;
	u32 ifindex;
	u8 point;
	u8 protocol; /* of IPv4, which has its ids for each; of IPv6: 0 */
	u8 family;
	u8 pad[5];
};

struct fragment_entry {
	u64 begun_ns; /* CLOCK_MONOTONIC_COARSE */
	u32 end;      /* the bytes up to here have been seen */
	__be16 source_port;
	__be16 destination_port;
	__be16 port;
	u8 protocol;
	u8 flags;
	u8 opaque;
	u8 complete; /* the last has been seen: the id may be used again */
	u8 pad[2];
};

/* Where a program that runs for a cgroup is attached: written when it is, so at first all zero. */
struct cgroup_endpoint {
	u64 cgroup_id;
	u32 endpoint_id;
	u32 level; /* depth of the cgroup below the root of its hierarchy */
};

struct host_side {
	u32 revision; /* under which this side was judged */
	u16 endpoint_id;
	u16 flags;
};
#define HOST_SIDE_DENIED 1 /* was allowed, no longer is: judged packet by packet until a SYN */

struct host_flow {
	u64 last_seen_ns; /* CLOCK_MONOTONIC_COARSE */
	u64 packets;
	u64 bytes;
	struct host_side began, other;
	u8 proxy;
	u8 pending; /* a packet for the proxy has left its process: the next one that comes is that one */
	u8 inner; /* both ends are in one cgroup, over the loopback: no policy has a say */
	u8 pad[5];
};

struct config {
	u32 revision;
	u32 observe;	      /* EVENT_VERDICT, EVENT_TRACE: what somebody listens for */
	u64 observe_until_ns; /* CLOCK_MONOTONIC: an agent that dies listening listens no more */
};

#define FQDN_SELECTORS 30
struct fqdn_identity {
	u32 base_identity;
	u32 count;
	u64 selectors[FQDN_SELECTORS];
};

struct listener_key {
	u8 proxy;
	u8 family;
	u8 protocol;
	u8 slot;
};
#define LISTENER_SLOTS 8

struct metric {
	u64 packets;
	u64 bytes;
};
/*
 * Rows of `metrics` that are not a reason. Row 0, REASON_NONE, counts what was forwarded, audited
 * packets among it; METRIC_AUDITED counts those that were reported. METRIC_PASSED_LOST counts
 * verdicts and traces that somebody listened for, METRIC_EVENTS_LOST drops that nobody will hear of.
 * An LRU table makes room by itself and does not tell: what was made, is not there, and was not
 * deleted was evicted.
 */
#define METRIC_FRAGMENTS_MADE  247
#define METRIC_HOST_FLOWS_GONE 248 /* deleted by a program */
#define METRIC_HOST_FLOWS_MADE 249
#define METRIC_CONNTRACK_GONE  250 /* likewise */
#define METRIC_CONNTRACK_MADE  251
#define METRIC_PASSED_LOST     252
#define METRIC_AUDITED	       253
#define METRIC_REDIRECTED      254
#define METRIC_EVENTS_LOST     255

struct event {
	u64 time_ns; /* CLOCK_BOOTTIME */
	u64 cookie;  /* of the rule that denies; 0: no rule allows it */
	u32 endpoint_id;
	u32 source_identity;
	u32 destination_identity;
	u32 policy_id;
	u32 revision;
	u32 length;
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port; /* of ICMP: the type */
	u8 protocol;
	u8 family;
	u8 direction;
	u8 verdict;
	u8 reason;
	u8 kinds;     /* EVENT_…, all that it tells of */
	u8 tcp_flags; /* the header's byte */
	u8 point;     /* POINT_…: the program */
	u8 reply;     /* against the direction in which the flow began, as which it is shown */
	u8 judged;    /* policy was asked about this packet */
	u8 proxy;     /* where the flow is redirected to */
	u8 pad;
};
#define EVENT_DROP    1
#define EVENT_VERDICT 2 /* what policy said, when somebody listens, or it would have dropped */
#define EVENT_TRACE   4 /* a packet that passed, when somebody listens */

#define POINT_FROM_ENDPOINT  1
#define POINT_TO_ENDPOINT    2
#define POINT_FROM_UPLINK    3
#define POINT_TO_UPLINK	     4
#define POINT_STEER	     5
#define POINT_CGROUP_EGRESS  6
#define POINT_CGROUP_INGRESS 7

#define CONFIGURED 4096

BPF_TABLE("hash", u32, struct endpoint, endpoints, CONFIGURED);
BPF_TABLE("hash", u32, u32, endpoint_by_ifindex, CONFIGURED);
BPF_TABLE("hash", struct address_key, u32, endpoint_by_address, CONFIGURED);
BPF_F_TABLE("lpm_trie", struct ipcache_key, struct ipcache_entry, ipcache, CONFIGURED,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct policy_key, struct policy_entry, policy, CONFIGURED,
	    BPF_F_NO_PREALLOC);
BPF_TABLE("lru_hash", struct conntrack_key, struct conntrack_entry, conntrack, CONFIGURED);
BPF_TABLE("lru_hash", struct fragment_key, struct fragment_entry, fragments, CONFIGURED);
/* bcc's macro for it has a key for each attach type. Here all programs of a cgroup share a row. */
struct cgroup_endpoints_table_t {
	u64 key; /* cgroup id */
	struct cgroup_endpoint leaf;
	int (*get_local_storage)(u64);
	u32 max_entries;
};
__attribute__((section("maps/cgroup_storage"))) struct cgroup_endpoints_table_t cgroup_endpoints = {
	.max_entries = 0,
};

BPF_TABLE("lru_hash", struct conntrack_key, struct host_flow, host_flows, CONFIGURED);
/* Interfaces where a packet on its way out can be turned back to a proxy. */
BPF_TABLE("hash", u32, u32, uplinks, 1024);

BPF_F_TABLE("array", u32, struct config, config, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("hash", u32, struct fqdn_identity, fqdn_identities, CONFIGURED, BPF_F_NO_PREALLOC);
BPF_TABLE("sockhash", struct listener_key, u64, listeners, 256);
BPF_TABLE("percpu_array", u32, struct metric, metrics, 256);

BPF_TABLE("percpu_array", u32, u64, event_budget, 2);

/* What passed has a ring of its own, so that it never takes the room of a drop. */
BPF_RINGBUF_OUTPUT(events, CONFIGURED / PAGE_SIZE);
BPF_RINGBUF_OUTPUT(passed, CONFIGURED / PAGE_SIZE);
