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

#define VLAN_ID 0xfff /* of the tag; 0 only gives a priority */

#define TCP_FIN	    0x01
#define TCP_SYN	    0x02
#define TCP_RST	    0x04
#define TCP_SYN_ACK 0x12

/* Of struct packet.flags */
#define PACKET_SYN	    1	/* TCP, begins a connection */
#define PACKET_ECHO_REQUEST 2	/* never the answer to anything */
#define PACKET_ECHO_REPLY   4	/* never begins anything */
#define PACKET_ICMP_ERROR   8	/* quotes the packet it is about */
#define PACKET_NEIGHBOUR    16	/* ICMPv6 of one link: neighbour discovery, multicast listeners */
#define PACKET_FRAGMENT	    32	/* not the first one: no ports */
#define PACKET_REVERSE	    64	/* set by track(): `flow` was turned round to the side that began */
#define PACKET_FIRST	    128 /* the first of several fragments */
#define PACKET_MORE	    256 /* a fragment that is not the last one */

struct packet {
	struct conntrack_key flow;
	__be16 port; /* what policy compares: the destination port, or the ICMP type */
	u16 flags;
	u16 payload; /* offset of what follows the ICMP header */
	u8 tcp_flags;
	u8 opaque; /* reason to drop it where policy is enforced, since policy cannot name it; or 0 */
	u32 length; /* of the transport header and what follows, as the IP header has it */
	__be32 fragment_id;
	u32 fragment_start; /* which bytes of the whole it holds */
	u32 fragment_end;
};

/* Not pinned: of these programs alone. */
struct scratch {
	struct packet packets[2];
};
BPF_PERCPU_ARRAY(scratch, struct scratch, 1);

#define WHOLE_BYTES 65535 /* no packet is put together to more */

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
	/* By the IP header: behind it may lie padding, which is not what the receiver puts together. */
	if (!quoted && p->length < (protocol == IPPROTO_TCP ? 20 : 8))
		return p->flags & PACKET_FIRST ? REASON_FRAGMENT : REASON_INVALID_PACKET;
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

/* 0 is what a packet of many segments says that is too long for the field. */
static __always_inline u32 total_length(struct __sk_buff *skb, __be16 said)
{
	return !said && skb->gso_size ? WHOLE_BYTES : bpf_ntohs(said);
}

/* `length` bytes from p->fragment_start on. 1 if nobody could put them together. */
static __always_inline int note_fragment(struct packet *p, u32 length, int more)
{
	p->fragment_end = p->fragment_start + length;
	if (p->fragment_end > WHOLE_BYTES || (more && length & 7))
		return 1;
	if (more)
		p->flags |= PACKET_MORE;
	if (p->fragment_start)
		p->flags |= PACKET_FRAGMENT;
	else if (more)
		p->flags |= PACKET_FIRST;
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
	if (quoted)
		return offset + ip.ihl * 4;
	p->length = total_length(skb, ip.tot_len) - ip.ihl * 4;
	if (p->length > WHOLE_BYTES)
		return 0;
	p->fragment_id = bpf_htonl(bpf_ntohs(ip.id));
	p->fragment_start = (bpf_ntohs(ip.frag_off) & 0x1fff) * 8;
	if (note_fragment(p, p->length, ip.frag_off & bpf_htons(0x2000)))
		return 0;
	return offset + ip.ihl * 4;
}

static __always_inline u32 parse_ipv6(struct __sk_buff *skb, u32 offset, struct packet *p,
				      int quoted)
{
	u8 next, h[8];
	u32 end;
	int i;

	/* Source and destination lie side by side there and here. */
	if (load(skb, offset, h, 8) || h[0] >> 4 != 6 || load(skb, offset + 8, &p->flow, 32))
		return 0;
	p->flow.family = 6;
	next = h[6];
	offset += 40;
	end = offset + total_length(skb, *(__be16 *)&h[4]);
	if (!quoted) {
#pragma nounroll
		for (i = 0; i < MAX_IPV6_EXTENSIONS; i++) {
			if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING &&
			    next != IPV6_FRAGMENT && next != IPV6_DESTINATION)
				break;
			if (load(skb, offset, h, 8))
				return 0;
			/* Segments left: it names a destination other than the one we would judge. */
			if (next == IPV6_ROUTING && h[3])
				return 0;
			if (next == IPV6_FRAGMENT) {
				/* One in another is put together in two steps, which we do not follow. */
				if (p->fragment_end || offset + 8 > end)
					return 0;
				p->fragment_id = *(__be32 *)&h[4];
				p->fragment_start = h[2] << 8 | (h[3] & 0xf8);
				if (note_fragment(p, end - offset - 8, h[3] & 1))
					return 0;
				h[1] = 0;
			}
			next = h[0];
			offset += (h[1] + 1) * 8;
			if (p->flags & PACKET_FRAGMENT)
				break;
		}
	}
	p->flow.protocol = next;
	p->length = end - offset;
	return p->length > WHOLE_BYTES && !quoted ? 0 : offset;
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

/* Not one host's address: a group, all of a link, or none. What the node makes of those depends on its
 * settings: it may deliver them to its own sockets. */
static __always_inline int is_group(u8 family, const struct address *a)
{
	u32 first = bpf_ntohl(a->word[3]) >> 24;

	if (family == 4)
		return first >= 224 || first == 0;
	/* Beside the unspecified one also IPv4 written as IPv6, in the way of old. */
	return (bpf_ntohl(a->word[0]) >> 24) == 0xff || (!a->half[0] && !a->word[2]);
}

/* An address that no packet on a wire has (RFC 1122, 3.2.1.3; RFC 4291, 2.5): the sender's own loopback,
 * or IPv4 written as IPv6. With route_localnet, which kube-proxy sets, the node would take the first for
 * its own loopback, where services listen that trust whoever reaches them. */
static __always_inline int is_host_internal(u8 family, const struct address *a)
{
	if (family == 4)
		return bpf_ntohl(a->word[3]) >> 24 == 127;
	if (a->half[0])
		return 0;
	return a->word[2] == bpf_htonl(0xffff) || (!a->word[2] && a->word[3] == bpf_htonl(1));
}

static __always_inline int is_unspecified(const struct address *a)
{
	return !(a->half[0] | a->half[1]);
}
