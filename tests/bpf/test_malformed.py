# SPDX-License-Identifier: Apache-2.0
"""What a workload sends that cannot be read, or has nothing that policy could name."""

import struct

import pytest

from l7bpf.flows import ConntrackKey

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
NO_RULE, MALFORMED, UNKNOWN_L4, FRAGMENT = 133, 134, 142, 157

ADDRESSES = {4: ("web", "db", "server", "node", "stranger"), 6: ("web6", "db6", "server6", "node6", "stranger6")}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def names(node, request):
    """web, db, server, node and stranger, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


def entry(node, source, destination, sport, dport, protocol=TCP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


class TestMalformed:
    def test_truncated_headers_are_dropped(self, node, build, names):
        web, _, server, *_ = names
        head = 14 + (40 if ":" in web else 20)
        tcp = build.tcp(web, server, 40000, 80)
        for length in (head, head + 4, head + 13):  # the kernel runs no packet with less
            assert send(node, tcp[:length]).reason == MALFORMED, length
        udp = build.udp(web, server, 40000, 80)
        assert send(node, udp[: head + 7]).reason == MALFORMED
        icmp = build.icmp(web, server, 8)
        assert send(node, icmp[: head + 7]).reason == MALFORMED

    @pytest.mark.parametrize("first", [0x55, 0x44, 0x40, 0x65])
    def test_a_wrong_version_or_header_length_is_dropped(self, node, build, first):
        packet = bytearray(build.tcp(node.web, node.server, 40000, 80))
        packet[14] = first
        assert send(node, bytes(packet)).reason == MALFORMED

    def test_ipv6_must_say_so(self, node, build):
        packet = bytearray(build.tcp(node.web6, node.server6, 40000, 80))
        packet[14] = 0x45
        assert send(node, bytes(packet)).reason == MALFORMED

    def test_a_router_alert_passes_and_ports_are_found_behind_it(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80)
        alert = bytes.fromhex("94040000")
        assert send(node, build.with_options(build.tcp(node.web, node.server, 40000, 80), alert)).passed
        assert entry(node, node.web, node.server, 40000, 80) is not None
        join = build.ip(node.db, "224.0.0.22", 2, bytes(16))
        assert send(node, build.with_options(join, alert), ifindex=node.db_ifindex).passed

    @pytest.mark.parametrize("program", ["from_endpoint", "from_uplink", "to_endpoint"])
    @pytest.mark.parametrize(
        "options",
        [
            "83070400000000",  # a loose source route
            "89070400000000",  # a strict one
            "0183070400000000",  # …behind padding
            "94040000 83070400000000",  # …behind a router alert
            "83030400",
            "07070400000000",  # a recorded route
            "44040500",  # a timestamp
            "00000000",
            "94030000",
            "94",
        ],
    )
    def test_other_ipv4_options_are_dropped_whatever_policy_says(self, node, build, program, options):
        ends = (node.web, node.server) if program == "from_endpoint" else (node.server, node.web)
        packet = build.with_options(build.tcp(*ends, 40000, 80), bytes.fromhex(options))
        result = node.run(program, packet)
        assert (result.reason, result.events[0].endpoint_id) == (MALFORMED, node.WEB)
        assert len(node.maps.conntrack) == 0

    def test_options_that_are_cut_off_are_dropped(self, node, build):
        packet = build.with_options(build.tcp(node.web, node.server, 40000, 80), bytes.fromhex("94040000"))
        assert send(node, packet[:35]).reason == MALFORMED

    def test_fragments_without_ports_are_dropped_where_policy_is_enforced(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0)
        assert send(node, build.ip(node.web, node.server, UDP, bytes(16), fragment=0x2001)).reason == FRAGMENT
        first = build.ip(node.web, node.server, UDP, struct.pack(">HHHH", 1, 2, 16, 0) + bytes(8), fragment=0x2000)
        assert send(node, first).passed
        tiny = build.ip(node.web, node.server, TCP, bytes(8), fragment=0x2000)
        assert send(node, tiny).reason == FRAGMENT

    @pytest.mark.parametrize(
        ("chain", "reason"),
        [
            ([(0, 6), (60, 14)], 0),
            ([(0, 6)] * 6, 0),
            ([(0, 6)] * 7, UNKNOWN_L4),
            ([(43, 6)], 0),
            ([(44, 0)], 0),
            ([(44, 8)], FRAGMENT),
            ([(0, 6), (44, 0xFF00)], FRAGMENT),
            ([(0, 6), (44, 0xFFF8)], MALFORMED),  # nothing is as long as that
            ([(44, 0), (44, 0)], MALFORMED),
            ([(51, 6)], UNKNOWN_L4),
            ([(59, 0)], UNKNOWN_L4),
        ],
    )
    def test_ipv6_extension_headers_are_walked(self, node, build, chain, reason):
        """(kind, bytes of data behind the first two) or, of a fragment header, its offset field."""
        node.enforce(web="egress")
        node.policy(70, "egress", 0)
        kinds = [kind for kind, _ in chain] + [TCP]
        body = b""
        for (kind, number), following in zip(chain, kinds[1:], strict=True):
            if kind == 44:
                body += struct.pack(">BBHI", following, 0, number, 1)
            else:
                body += struct.pack(">BB", following, (number + 2) // 8 - 1 if number else 0) + bytes(max(number, 6))
        body += build.tcp_header(40000, 80, build.SYN)
        result = send(node, build.ip(node.web6, node.server6, kinds[0], body))
        assert result.reason == reason
        if not reason:
            assert entry(node, node.web6, node.server6, 40000, 80) is not None

    def test_a_routing_header_with_another_destination_is_dropped(self, node, build):
        body = struct.pack(">BBBB", TCP, 0, 4, 1) + bytes(4) + build.tcp_header(40000, 80, build.SYN)
        assert send(node, build.ip(node.web6, node.server6, 43, body)).reason == MALFORMED

    def test_a_truncated_extension_header_is_dropped(self, node, build):
        assert send(node, build.ip(node.web6, node.server6, 0, b"\x06\x00")).reason == MALFORMED

    @pytest.mark.parametrize(("family", "protocol"), [(4, 47), (4, 50), (4, ICMP6), (6, ICMP), (6, 47)])
    def test_an_unknown_transport_is_dropped_where_policy_is_enforced(self, node, build, family, protocol):
        node.enforce(web="egress")
        node.policy(70, "egress", 0)
        web, server = (node.web, node.server) if family == 4 else (node.web6, node.server6)
        result = send(node, build.ip(web, server, protocol, bytes(20)))
        assert (result.reason, result.events[0].protocol) == (UNKNOWN_L4, protocol)

    def test_sctp_has_ports(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, SCTP, 80)
        head = struct.pack(">HHII", 40000, 80, 0, 0)
        assert send(node, build.ip(node.web, node.server, SCTP, head)).passed
        head = struct.pack(">HHII", 40000, 81, 0, 0)
        assert send(node, build.ip(node.web, node.server, SCTP, head)).reason == NO_RULE
