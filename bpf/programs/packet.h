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

#define TCP_SYN_ACK 0x12
#define TCP_SYN	    0x02

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
	u8 opaque; /* reason to drop it where policy is enforced, since policy cannot name it; or 0 */
	u32 payload; /* offset of what follows the ICMP header */
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
					  const int quoted)
{
	u8 protocol = p->flow.protocol;
	u8 h[14];

	if (protocol == IPPROTO_TCP) {
		if (load(skb, offset, h, quoted ? 8 : 14))
			return REASON_INVALID_PACKET;
		if (!quoted && (h[13] & TCP_SYN_ACK) == TCP_SYN)
			p->flags |= PACKET_SYN;
	} else if (protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP) {
		if (load(skb, offset, h, 8))
			return REASON_INVALID_PACKET;
	} else if (protocol == (p->flow.family == 6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		if (load(skb, offset, h, 8))
			return REASON_INVALID_PACKET;
		p->payload = offset + 8;
		parse_icmp(p, h[0], *(__be16 *)&h[4]);
		return 0;
	} else {
		p->opaque = REASON_UNKNOWN_L4;
		return 0;
	}
	p->flow.source_port = *(__be16 *)&h[0];
	p->flow.destination_port = *(__be16 *)&h[2];
	p->port = p->flow.destination_port;
	return 0;
}

static __always_inline u8 parse_ipv4(struct __sk_buff *skb, u32 offset, struct packet *p,
				     const int quoted)
{
	struct iphdr ip;

	if (load(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return REASON_INVALID_PACKET;
	p->flow.family = 4;
	p->flow.protocol = ip.protocol;
	p->flow.source.word[3] = ip.saddr;
	p->flow.destination.word[3] = ip.daddr;
	if (ip.frag_off & bpf_htons(0x1fff)) {
		p->flags |= PACKET_FRAGMENT;
		p->opaque = REASON_FRAGMENT;
		return 0;
	}
	return parse_transport(skb, offset + ip.ihl * 4, p, quoted);
}

static __always_inline u8 parse_ipv6(struct __sk_buff *skb, u32 offset, struct packet *p,
				     const int quoted)
{
	struct ipv6hdr ip;
	u8 next, h[4];
	int i;

	if (load(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return REASON_INVALID_PACKET;
	p->flow.family = 6;
	__builtin_memcpy(&p->flow.source, &ip.saddr, 16);
	__builtin_memcpy(&p->flow.destination, &ip.daddr, 16);
	next = ip.nexthdr;
	offset += sizeof(ip);
	if (!quoted) {
#pragma unroll
		for (i = 0; i < MAX_IPV6_EXTENSIONS; i++) {
			if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING &&
			    next != IPV6_FRAGMENT && next != IPV6_DESTINATION)
				break;
			if (load(skb, offset, h, 4))
				return REASON_INVALID_PACKET;
			if (next == IPV6_FRAGMENT) {
				offset += 8;
				if (*(__be16 *)&h[2] & bpf_htons(0xfff8)) {
					p->flow.protocol = h[0];
					p->flags |= PACKET_FRAGMENT;
					p->opaque = REASON_FRAGMENT;
					return 0;
				}
			} else {
				/* It names a destination other than the one we would judge. */
				if (next == IPV6_ROUTING && h[3])
					return REASON_INVALID_PACKET;
				offset += (h[1] + 1) * 8;
			}
			next = h[0];
		}
	}
	p->flow.protocol = next;
	return parse_transport(skb, offset, p, quoted);
}

/* 0 and the packet, or the reason to drop it. */
static __always_inline u8 parse(struct __sk_buff *skb, struct packet *p)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, 0, p, 0);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, 0, p, 0);
	return REASON_UNKNOWN_L3;
}

/* The packet that the ICMP error `p` quotes. */
static __always_inline u8 parse_quoted(struct __sk_buff *skb, const struct packet *p,
				       struct packet *quoted)
{
	if (p->flow.family == 4)
		return parse_ipv4(skb, p->payload, quoted, 1);
	return parse_ipv6(skb, p->payload, quoted, 1);
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
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
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}
