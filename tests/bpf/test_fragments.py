# SPDX-License-Identifier: Apache-2.0
"""Packets in fragments: all of them get the verdict of the first, or none gets through."""

import dataclasses
import struct

import pytest

from l7bpf.flows import SECOND_NS, ConntrackKey

TCP, UDP, ICMP6 = 6, 17, 58
TO_PROXY, TO_SERVER = 0x200, 0xB00
NO_RULE, MALFORMED, FRAGMENT, OVERLAP = 133, 134, 157, 205
ADDRESSES = {"ipv4": ("web", "db", "server"), "ipv6": ("web6", "db6", "server6")}


@pytest.fixture(params=ADDRESSES)
def names(node, request):
    """web, db and server, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


@pytest.fixture
def piece(build):
    """One fragment: bytes `start` on of a packet, and whether more follow."""

    def make(ends, start, data, more, *, protocol=UDP, identifier=7):
        source, destination = ends
        if ":" in source:
            head = struct.pack(">BBHI", protocol, 0, start | more, identifier)
            return build.ip(source, destination, 44, head + data)
        packet = bytearray(build.ip(source, destination, protocol, data, fragment=start // 8 | more << 13))
        struct.pack_into(">H", packet, 18, identifier)
        return bytes(packet)

    return make


def datagram(sport, dport, size=24):
    return struct.pack(">HHHH", sport, dport, size, 0) + bytes(size - 8)


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


@pytest.fixture
def asking(node, names):
    """web may reach the server's port 80, directly, and everybody's port 53 by the DNS proxy."""
    web, _, server = names
    node.enforce(web="egress")
    node.policy(70, "egress", node.SERVER_IDENTITY, UDP, 80)
    node.policy(70, "egress", 0, UDP, 53, verdict="dns")
    return web, server


class TestInOrder:
    @pytest.mark.parametrize(("port", "mark", "proxy"), [(80, 0, 0), (53, TO_PROXY, 2)])
    def test_all_get_the_verdict_of_the_first(self, node, piece, asking, port, mark, proxy):
        web, server = asking
        first = send(node, piece(asking, 0, datagram(4000, port), 1))
        rest = [send(node, piece(asking, start, bytes(24), start < 72)) for start in (24, 48, 72)]
        assert [(result.passed, result.mark) for result in (first, *rest)] == [(True, mark)] * 4
        row = node.maps.conntrack.get(ConntrackKey(web, server, 4000, port, UDP))
        assert (row.packets, row.proxy) == (4, proxy)

    def test_those_of_a_denied_one_are_denied_for_the_same_reason(self, node, piece, asking):
        for start in (0, 24):
            result = send(node, piece(asking, start, datagram(4000, 81), start == 0))
            assert result.reason == NO_RULE
            assert result.events[0].destination_port == 81

    @pytest.mark.parametrize("program", ["from_uplink", "to_endpoint"])
    def test_answers_may_come_in_fragments(self, node, build, piece, asking, program):
        web, server = asking
        node.enforce(web="both")
        send(node, build.udp(web, server, 4000, 53))
        options = {"ingress_ifindex": 1} if program == "to_endpoint" else {}
        send(node, build.udp(web, server, 4001, 80))
        for start in (0, 24):
            answer = node.run(program, piece((server, web), start, datagram(80, 4001), start == 0), **options)
            assert (answer.passed, answer.mark) == (True, 0)

    def test_answers_to_the_proxy_are_marked_for_it(self, node, build, piece, asking):
        web, server = asking
        node.run("to_uplink", build.udp(web, server, 61000, 53), mark=TO_SERVER)
        for start in (0, 24):
            answer = node.run("from_uplink", piece((server, web), start, datagram(53, 61000), start == 0))
            assert answer.mark == TO_PROXY

    def test_a_big_ping_and_its_answer_pass(self, node, piece, names):
        web, _, server = names
        protocol, kinds = (ICMP6, (128, 129)) if ":" in web else (1, (8, 0))
        node.enforce(web="both")
        node.policy(70, "egress", 0, protocol, kinds[0])
        for ends, kind, program in (
            ((web, server), kinds[0], "from_endpoint"),
            ((server, web), kinds[1], "from_uplink"),
        ):
            head = struct.pack(">BBHHH", kind, 0, 0, 77, 1) + bytes(16)
            assert node.run(program, piece(ends, 0, head, 1, protocol=protocol)).passed
            assert node.run(program, piece(ends, 24, bytes(24), 0, protocol=protocol)).passed
        assert node.maps.conntrack.get(ConntrackKey(web, server, 77, 0, protocol)).packets == 4

    def test_a_connections_segments_may_too(self, node, build, piece, names):
        web, _, server = names
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80)
        assert send(node, build.tcp(web, server, 40000, 80)).passed
        segment = build.tcp_header(40000, 80, build.ACK) + bytes(4)
        assert send(node, piece((web, server), 0, segment, 1, protocol=TCP)).passed
        assert send(node, piece((web, server), 24, bytes(24), 0, protocol=TCP)).passed

    def test_an_id_may_be_used_again_once_the_packet_was_complete(self, node, piece, asking):
        for port, reason in ((80, 0), (81, NO_RULE), (80, 0)):
            for start in (0, 24):
                assert send(node, piece(asking, start, datagram(4000, port), start == 0)).reason == reason

    def test_packets_with_other_ids_and_ends_do_not_mix(self, node, piece, asking):
        web, server = asking
        assert send(node, piece(asking, 0, datagram(4000, 80), 1)).passed
        assert send(node, piece(asking, 24, bytes(8), 0, identifier=8)).reason == FRAGMENT
        assert send(node, piece((web, node.node6 if ":" in web else node.node), 24, bytes(8), 0)).reason == FRAGMENT
        assert node.run("from_uplink", piece((server, web), 24, bytes(8), 0)).passed  # nothing is enforced there
        assert send(node, piece(asking, 24, bytes(8), 0)).passed


class TestOutOfOrder:
    def test_without_its_first_nothing_passes(self, node, piece, asking):
        assert send(node, piece(asking, 24, bytes(8), 0)).reason == FRAGMENT
        assert send(node, piece(asking, 0, datagram(4000, 80), 1)).passed

    def test_where_nothing_is_enforced_it_passes_and_is_no_flow(self, node, piece, names):
        web, _, server = names
        assert send(node, piece((web, server), 24, bytes(8), 0)).passed
        assert len(node.maps.conntrack) == 0

    def test_a_gap_is_no_harm(self, node, piece, asking):
        assert send(node, piece(asking, 0, datagram(4000, 80), 1)).passed
        assert send(node, piece(asking, 48, bytes(8), 0)).passed

    def test_long_after_its_first_it_is_alone(self, node, piece, asking):
        assert send(node, piece(asking, 0, datagram(4000, 80), 1)).passed
        ((key, row),) = node.maps.fragments.items()
        past = (row.begun_ns - 31 * SECOND_NS) % 2**64
        node.maps.fragments.update(key, dataclasses.replace(row, begun_ns=past))
        assert send(node, piece(asking, 24, bytes(8), 0)).reason == FRAGMENT
        assert send(node, piece(asking, 0, datagram(4000, 80), 1)).passed


class TestOverlap:
    @pytest.mark.parametrize(
        ("starts", "name"),
        [
            ((0, 8), "over the first"),
            ((0, 24, 24), "twice"),
            ((0, 24, 16), "over the one before"),
            ((0, 48, 24), "into a gap"),
            ((0, 0), "a first one again"),
        ],
    )
    def test_bytes_that_come_twice_doom_the_rest(self, node, piece, asking, starts, name):
        for start in starts[:-1]:
            assert send(node, piece(asking, start, datagram(4000, 80), 1)).passed
        assert send(node, piece(asking, starts[-1], datagram(4000, 80), 1)).reason == OVERLAP, name
        assert send(node, piece(asking, 96, bytes(8), 0)).reason == OVERLAP

    def test_it_is_no_matter_of_policy(self, node, piece, names):
        ends = names[0], names[2]
        assert send(node, piece(ends, 0, datagram(4000, 80), 1)).passed
        assert send(node, piece(ends, 8, datagram(4000, 81), 0)).reason == OVERLAP

    def test_another_interface_sees_its_own_fragments(self, node, piece, names):
        """What one workload sends another is seen twice: where it comes in and where it goes out."""
        web, db, _ = names
        for start in (0, 24):
            packet = piece((web, db), start, datagram(4000, 80), start == 0)
            assert send(node, packet).passed
            assert node.run("to_endpoint", packet, ifindex=node.db_ifindex, ingress_ifindex=node.web_ifindex).passed


class TestTooSmall:
    @pytest.mark.parametrize("protocol", [TCP, UDP])
    def test_a_first_that_does_not_hold_its_header_is_dropped(self, node, piece, names, protocol):
        node.enforce(web="egress")
        node.policy(70, "egress", 0)
        size = 16 if protocol == TCP else 0
        padding = bytes(46)  # of the frame: it is not the packet's
        tiny = piece((names[0], names[2]), 0, bytes(size), 1, protocol=protocol) + padding
        assert send(node, tiny).reason == FRAGMENT

    @pytest.mark.parametrize("protocol", [TCP, UDP])
    def test_a_whole_packet_is_as_long_as_it_says(self, node, build, names, protocol):
        short = build.ip(names[0], names[2], protocol, bytes(7)) + bytes(46)
        assert send(node, short).reason == MALFORMED

    def test_one_that_is_no_multiple_of_eight_is_dropped(self, node, piece, names):
        assert send(node, piece((names[0], names[2]), 0, datagram(4000, 80) + b"1", 1)).reason == MALFORMED

    def test_one_that_ends_beyond_all_packets_is_dropped(self, node, piece, names):
        assert send(node, piece((names[0], names[2]), 65528, bytes(8), 0)).reason == MALFORMED


@pytest.mark.parametrize("kind", ["error", "neighbour"])
def test_what_is_judged_by_its_content_is_not_followed(node, build, piece, kind):
    node.enforce(web="both")
    if kind == "error":
        asked = build.udp(node.web6, node.server6, 4000, 80)
        node.policy(70, "egress", 0, UDP, 80)
        assert send(node, asked).passed
        body, source = struct.pack(">BBHI", 1, 0, 0, 0) + asked[14:], node.stranger6
    else:
        body, source = struct.pack(">BBHI", 135, 0, 0, 0) + bytes(16), "fe80::1"
    body = body[: len(body) // 8 * 8]
    first = piece((source, node.web6), 0, body, 1, protocol=ICMP6)
    program = "from_uplink" if kind == "error" else "to_endpoint"
    assert node.run(program, first).passed
    later = piece((source, node.web6), len(body), bytes(8), 0, protocol=ICMP6)
    assert node.run(program, later).reason == FRAGMENT


GROUPS = ("224.0.0.251", "239.1.2.3", "255.255.255.255", "240.0.0.1", "0.0.0.0")
GROUPS6 = ("ff02::fb", "ff0e::1", "::", "::192.0.2.1")


@pytest.mark.parametrize("destination", GROUPS + GROUPS6)
def test_a_destination_that_is_no_single_host_is_dropped_by_that_name(node, build, destination):
    """Whatever policy says of the world: the node might take it for its own."""
    web = node.web6 if ":" in destination else node.web
    assert send(node, build.udp(web, destination, 5353, 5353)).passed
    node.enforce(web="egress")
    node.policy(70, "egress", 0)
    node.revision(2)
    assert send(node, build.udp(web, destination, 5353, 5353)).reason == 206


@pytest.mark.parametrize("destination", ["127.0.0.1", "127.0.0.2", "::1", "::ffff:192.0.2.1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("enforced", ["", "egress audit"])
def test_what_is_internal_to_a_host_is_on_no_wire_whatever_policy_says(node, build, destination, enforced):
    """With route_localnet the node would take 127.0.0.1 for its own, whose services trust whoever reaches them."""
    web = node.web6 if ":" in destination else node.web
    node.enforce(web=enforced)
    assert send(node, build.udp(web, destination, 5353, 5353)).reason == 206
