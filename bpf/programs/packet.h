/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a packet says: its flow, and the port that policy knows it by.
 *
 * Read by copy from the network header on, so that neither non-linear packets nor devices without a
 * link layer need care. What cannot be read is REASON_INVALID_PACKET.
 */
#pragma once

#define IPV6_HOP_BY_HOP	    0
#define IPV6_ROUTING	    43
#define IPV6_FRAGMENT	    44
#define IPV6_DESTINATION    60
#define MAX_IPV6_EXTENSIONS 6

#define IPV4_ROUTER_ALERT 0x9404 /* its type and its length, which is all that an ihl of 6 holds */

#define TCP_FIN	    0x01
#define TCP_SYN	    0x02
#define TCP_RST	    0x04
#define TCP_SYN_ACK 0x12

/* Of struct packet.flags */
#define PACKET_SYN	    1  /* TCP, begins a connection */
#define PACKET_ECHO_REQUEST 2  /* never the answer to anything */
#define PACKET_ECHO_REPLY   4  /* never begins anything */
#define PACKET_ICMP_ERROR   8  /* quotes the packet it is about */
#define PACKET_NEIGHBOUR    16 /* ICMPv6 of one link: neighbour discovery, multicast listeners */
#define PACKET_FRAGMENT	    32 /* not the first one: no ports */
#define PACKET_REVERSE	    64 /* set by track(): `flow` was turned round to the side that began */

struct packet {
	struct conntrack_key flow;
	__be16 port; /* what policy compares: the destination port, or the ICMP type */
	u8 flags;
	u8 tcp_flags;
	u16 payload; /* offset of what follows the ICMP header */
	u8 opaque; /* reason to drop it where policy is enforced, since policy cannot name it; or 0 */
};

static __always_inline long load(struct __sk_buff *skb, u32 offset, void *to, u32 length)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET);
}

/* ICMP has no ports. The keys of an echo request and of its reply are each other's reverse; every
 * other type is a flow of its own that nothing is the reverse of. */
static __always_inline void parse_icmp(struct packet *p, u8 type, __be16 id)
{
	int v6 = p->flow.family == 6;

	p->port = bpf_htons(type);
	if (type == (v6 ? 128 : 8)) {
		p->flags |= PACKET_ECHO_REQUEST;
		p->flow.source_port = id;
	} else if (type == (v6 ? 129 : 0)) {
		p->flags |= PACKET_ECHO_REPLY;
		p->flow.destination_port = id;
	} else {
		p->flow.source_port = p->port;
		p->flow.destination_port = 0xffff;
		if (v6 ? (type >= 1 && type <= 4)
		       : (type == 3 || type == 4 || type == 11 || type == 12))
			p->flags |= PACKET_ICMP_ERROR;
		if (v6 && ((type >= 130 && type <= 136) || type == 143))
			p->flags |= PACKET_NEIGHBOUR;
	}
}

/* The port that policy compares, from the key of a flow's first packet. */
static __always_inline __be16 policy_port(const struct conntrack_key *flow)
{
	if (flow->protocol != IPPROTO_ICMP && flow->protocol != IPPROTO_ICMPV6)
		return flow->destination_port;
	if (flow->destination_port == 0xffff)
		return flow->source_port;
	return flow->family == 6 ? bpf_htons(128) : bpf_htons(8);
}

/* Ports, at `offset` from the network header. A packet quoted by an ICMP error has only 8 bytes. */
static __always_inline u8 parse_transport(struct __sk_buff *skb, u32 offset, struct packet *p,
					  int quoted)
{
	u8 protocol = p->flow.protocol;
	struct {
		__be16 first, second, third, fourth;
		u8 rest[6];
	} h;
	u8 *bytes = (u8 *)&h;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_SCTP &&
	    protocol != (p->flow.family == 6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		p->opaque = REASON_UNKNOWN_L4;
		return 0;
	}
	if (protocol == IPPROTO_TCP && !quoted) {
		if (load(skb, offset, &h, 14))
			return REASON_INVALID_PACKET;
		p->tcp_flags = bytes[13];
		if ((bytes[13] & TCP_SYN_ACK) == TCP_SYN)
			p->flags |= PACKET_SYN;
	} else if (load(skb, offset, &h, 8)) {
		return REASON_INVALID_PACKET;
	}
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
		p->payload = offset + 8;
		parse_icmp(p, bytes[0], h.third);
		return 0;
	}
	p->flow.source_port = h.first;
	p->flow.destination_port = p->port = h.second;
	return 0;
}

/*
 * Fills the addresses and the protocol. Returns the offset of the transport header, or 0.
 *
 * Options are refused: a source route names a destination other than the one we would judge, and
 * nothing that a workload needs has any. But for a lone router alert, which multicast joins carry.
 */
static __always_inline u32 parse_ipv4(struct __sk_buff *skb, u32 offset, struct packet *p,
				      int quoted)
{
	struct iphdr ip;
	__be16 option;

	if (load(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return 0;
	p->flow.family = 4;
	p->flow.protocol = ip.protocol;
	p->flow.source.word[3] = ip.saddr;
	p->flow.destination.word[3] = ip.daddr;
	if (!quoted && ip.ihl > 5 &&
	    (ip.ihl > 6 || load(skb, offset + sizeof(ip), &option, sizeof(option)) ||
	     option != bpf_htons(IPV4_ROUTER_ALERT)))
		return 0;
	if (ip.frag_off & bpf_htons(0x1fff))
		p->flags |= PACKET_FRAGMENT;
	return offset + ip.ihl * 4;
}

static __always_inline u32 parse_ipv6(struct __sk_buff *skb, u32 offset, struct packet *p,
				      int quoted)
{
	u8 next, h[8];
	int i;

	/* Source and destination lie side by side there and here. */
	if (load(skb, offset, h, 8) || h[0] >> 4 != 6 || load(skb, offset + 8, &p->flow, 32))
		return 0;
	p->flow.family = 6;
	next = h[6];
	offset += 40;
	if (!quoted) {
#pragma nounroll
		for (i = 0; i < MAX_IPV6_EXTENSIONS; i++) {
			if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING &&
			    next != IPV6_FRAGMENT && next != IPV6_DESTINATION)
				break;
			if (load(skb, offset, h, 4))
				return 0;
			/* Segments left: it names a destination other than the one we would judge. */
			if (next == IPV6_ROUTING && h[3])
				return 0;
			if (next == IPV6_FRAGMENT) {
				if (h[2] | (h[3] & 0xf8))
					p->flags |= PACKET_FRAGMENT;
				h[1] = 0;
			}
			next = h[0];
			offset += (h[1] + 1) * 8;
			if (p->flags & PACKET_FRAGMENT)
				break;
		}
	}
	p->flow.protocol = next;
	return offset;
}

/* Keeps the compiler from making one copy of a loop's body for each value. */
#define keep_opaque(x) asm volatile("" : "+r"(x))

/*
 * 0 and the packet, or the reason to drop it. Of an ICMP error also the packet that it quotes; what
 * cannot be read of that leaves quoted->flow.family at 0.
 */
static __always_inline u8 parse(struct __sk_buff *skb, struct packet *p, struct packet *quoted)
{
	int v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	struct packet *to = p;
	u32 start = 0, offset;
	int again;
	u8 reason;

	if (skb->protocol != bpf_htons(ETH_P_IP) && !v6)
		return REASON_UNKNOWN_L3;
#pragma nounroll
	for (again = 0; again < 2; again++) {
		keep_opaque(again);
		offset = v6 ? parse_ipv6(skb, start, to, again) : parse_ipv4(skb, start, to, again);
		reason = offset ? 0 : REASON_INVALID_PACKET;
		if (to->flags & PACKET_FRAGMENT)
			to->opaque = REASON_FRAGMENT;
		else if (offset)
			reason = parse_transport(skb, offset, to, again);
		if (again) {
			if (reason || to->opaque)
				to->flow.family = 0;
			return 0;
		}
		if (reason || !(to->flags & PACKET_ICMP_ERROR))
			return reason;
		start = to->payload;
		to = quoted;
	}
	return 0;
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

static __always_inline int is_link_local(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int is_link_multicast(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xff0f0000)) == bpf_htonl(0xff020000);
}

static __always_inline int is_unspecified(const struct address *a)
{
	return !(a->half[0] | a->half[1]);
}
