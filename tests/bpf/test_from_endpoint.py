# SPDX-License-Identifier: Apache-2.0
"""What a workload sends: from_endpoint, one packet at a time."""

import struct

import pytest

from l7bpf.flows import CONNTRACK_LOCAL, ConntrackKey
from l7bpf.layouts import METRIC_FORWARDED, METRIC_REDIRECTED, IpcacheEntry

TCP, UDP, SCTP = 6, 17, 132
TO_PROXY = 0x200
INVALID_SOURCE, NO_RULE, UNKNOWN_L3, DENY_RULE, REDIRECT_IMPOSSIBLE, ENDPOINT_UNKNOWN = 132, 133, 139, 181, 201, 203

ADDRESSES = {4: ("web", "db", "server", "node", "stranger"), 6: ("web6", "db6", "server6", "node6", "stranger6")}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def names(node, request):
    """web, db, server, node and stranger, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


def entry(node, source, destination, sport, dport, protocol=TCP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


class TestWithoutPolicy:
    @pytest.mark.parametrize("kind", ["tcp", "udp"])
    def test_everything_passes_and_is_remembered(self, node, build, names, kind):
        web, _, server, *_ = names
        packet = getattr(build, kind)(web, server, 40000, 80)
        assert send(node, packet).passed
        row = entry(node, web, server, 40000, 80, TCP if kind == "tcp" else UDP)
        assert (row.packets, row.octets, row.revision, row.proxy, row.upstream) == (1, len(packet), 1, 0, 0)

    def test_a_mark_set_by_the_workload_is_cleared(self, node, build):
        for mark in (0x200, 0xA00, 0xB00, 0xFFFFFFFF):
            assert send(node, build.tcp(node.web, node.server, 40000, 80), mark=mark).mark == 0

    def test_a_protocol_without_ports_passes(self, node, build):
        assert send(node, build.ip(node.web, node.server, 47, bytes(8))).passed

    def test_a_fragment_passes_and_is_no_flow(self, node, build):
        assert send(node, build.ip(node.web, node.server, UDP, bytes(16), fragment=100)).passed
        assert len(node.maps.conntrack) == 0


class TestSource:
    @pytest.mark.parametrize("source", ["db", "server", "node", "stranger"])
    def test_another_address_than_its_own_is_dropped(self, node, build, source):
        result = send(node, build.tcp(getattr(node, source), node.server, 40000, 80))
        assert result.reason == INVALID_SOURCE
        event = result.events[0]
        assert (event.endpoint_id, event.source, event.destination) == (
            node.WEB,
            getattr(node, source),
            node.server,
        )
        result = send(node, build.tcp(getattr(node, source + "6"), node.server6, 40000, 80))
        assert result.reason == INVALID_SOURCE

    def test_its_own_address_from_another_interface_is_dropped(self, node, build):
        packet = build.tcp(node.web, node.server, 40000, 80)
        assert send(node, packet, ifindex=node.db_ifindex).reason == INVALID_SOURCE

    def test_a_known_flow_does_not_excuse_it(self, node, build):
        assert send(node, build.tcp(node.db, node.server, 40000, 80), ifindex=node.db_ifindex).passed
        assert send(node, build.tcp(node.db, node.server, 40000, 80, build.ACK)).reason == INVALID_SOURCE

    def test_an_interface_that_is_nobodys_is_dropped_even_for_arp(self, node, build):
        node.maps.endpoint_by_ifindex.delete(node.web_ifindex)
        assert send(node, build.tcp(node.web, node.server, 40000, 80)).reason == ENDPOINT_UNKNOWN
        assert send(node, build.arp()).reason == ENDPOINT_UNKNOWN

    def test_an_endpoint_that_is_being_removed_is_dropped(self, node, build):
        node.maps.endpoints.delete(node.WEB)
        assert send(node, build.tcp(node.web, node.server, 40000, 80)).reason == ENDPOINT_UNKNOWN


class TestLink:
    def test_arp_passes(self, node, build):
        node.enforce(web="both")
        assert send(node, build.arp()).passed

    @pytest.mark.parametrize("ethertype", [0x88CC, 0x8847, 0x8100, 0x0842])
    def test_other_network_protocols_are_dropped(self, node, build, ethertype):
        assert send(node, build.frame(ethertype, bytes(40))).reason == UNKNOWN_L3

    @pytest.mark.parametrize(
        ("source", "destination", "kind", "passes"),
        [
            ("fe80::2", "ff02::1:ff00:1", 135, True),
            ("::", "ff02::1:ff00:1", 135, True),
            ("web6", "fe80::1", 136, True),
            ("web6", "node6", 136, True),
            ("fe80::2", "ff02::2", 133, True),
            ("fe80::2", "ff02::16", 143, True),
            ("::", "ff02::16", 143, True),
            ("fe80::2", "ff02::1", 134, False),  # a router's advertisement
            ("fe80::2", "fe80::1", 137, False),  # a redirect
            ("fe80::2", "ff02::1", 128, False),  # a ping from an address that is not registered
            ("stranger6", "ff02::1", 136, False),
            ("db6", "ff02::1", 136, False),
            ("fe80::2", "server6", 135, False),  # would leave the link
        ],
    )
    def test_only_neighbour_traffic_of_the_link_needs_no_policy(self, node, build, source, destination, kind, passes):
        node.enforce(web="both")
        source, destination = getattr(node, source, source), getattr(node, destination, destination)
        result = send(node, build.icmp(source, destination, kind, data=bytes(16)))
        assert result.passed == passes
        assert passes or result.reason == INVALID_SOURCE

    def test_neighbour_traffic_to_far_away_is_judged_as_any_other(self, node, build):
        node.enforce(web="egress")
        assert send(node, build.icmp(node.web6, node.server6, 135, data=bytes(16))).reason == NO_RULE


class TestPolicy:
    def test_what_no_rule_allows_is_dropped_with_all_its_facts(self, node, build, names):
        web, _, server, *_ = names
        node.enforce(web="egress")
        packet = build.tcp(web, server, 40000, 443)
        result = send(node, packet)
        event = result.events[0]
        assert result.reason == NO_RULE
        assert (event.endpoint_id, event.policy_id, event.revision, event.cookie) == (node.WEB, 70, 1, 0)
        assert (event.source_identity, event.destination_identity) == (node.WEB_IDENTITY, node.SERVER_IDENTITY)
        assert (event.source, event.destination, event.source_port, event.destination_port) == (web, server, 40000, 443)
        assert (event.protocol, event.direction, event.verdict, event.length) == (TCP, 0, 2, len(packet))
        assert entry(node, web, server, 40000, 443) is None

    @pytest.mark.parametrize(
        ("entries", "port", "reason"),
        [
            ([("server", TCP, 80, {})], 80, 0),
            ([("server", TCP, 80, {})], 81, NO_RULE),
            ([("server", UDP, 80, {})], 80, NO_RULE),
            ([("server", TCP, 0, {})], 9999, 0),
            ([("server", 0, 0, {})], 9999, 0),
            ([("any", TCP, 80, {})], 80, 0),
            ([("other", TCP, 80, {})], 80, NO_RULE),
            ([("server", TCP, 8080, {"bits": 12})], 8095, 0),
            ([("server", TCP, 8080, {"bits": 12})], 8096, NO_RULE),
            ([("server", TCP, 80, {"verdict": "deny", "cookie": 5})], 80, DENY_RULE),
            ([("server", 0, 0, {}), ("any", TCP, 80, {"verdict": "deny", "cookie": 5})], 80, DENY_RULE),
            ([("any", 0, 0, {}), ("server", TCP, 80, {"verdict": "deny", "cookie": 5})], 80, DENY_RULE),
            ([("any", TCP, 80, {"verdict": "deny", "cookie": 5}), ("server", TCP, 80, {"precedence": 256})], 80, 0),
        ],
    )
    def test_the_strongest_entry_decides(self, node, build, entries, port, reason):
        node.enforce(web="egress")
        identities = {"server": node.SERVER_IDENTITY, "any": 0, "other": 51}
        for peer, protocol, entry_port, options in entries:
            node.policy(70, "egress", identities[peer], protocol, entry_port, **options)
        result = send(node, build.tcp(node.web, node.server, 40000, port))
        assert result.reason == reason
        if reason == DENY_RULE:
            assert result.events[0].cookie == 5

    def test_at_equal_precedence_the_identity_decides(self, node, build):
        node.enforce(web="egress")
        specific = node.policy(70, "egress", node.SERVER_IDENTITY, TCP, 80)
        anybody = node.policy(70, "egress", 0, TCP, 80)
        assert send(node, build.tcp(node.web, node.server, 40000, 80)).passed
        assert (node.maps.policy.get(specific).packets, node.maps.policy.get(anybody).packets) == (1, 0)

    def test_entries_of_other_policies_and_directions_do_not_count(self, node, build):
        node.enforce(web="egress")
        node.policy(80, "egress", node.SERVER_IDENTITY, TCP, 80)
        node.policy(70, "ingress", node.SERVER_IDENTITY, TCP, 80)
        assert send(node, build.tcp(node.web, node.server, 40000, 80)).reason == NO_RULE

    def test_an_address_without_identity_is_the_world(self, node, build, names):
        web, *_, stranger = names
        node.enforce(web="egress")
        node.policy(70, "egress", node.WORLD, TCP, 80)
        assert send(node, build.tcp(web, stranger, 40000, 80)).passed

    def test_the_longest_prefix_names_the_identity(self, node, build):
        node.enforce(web="egress")
        node.maps.ipcache.update("203.0.113.0/24", IpcacheEntry(60))
        node.maps.ipcache.update("203.0.113.8/29", IpcacheEntry(61))
        node.policy(70, "egress", 61, TCP, 80)
        assert send(node, build.tcp(node.web, "203.0.113.9", 40000, 80)).passed
        assert send(node, build.tcp(node.web, "203.0.113.100", 40000, 80)).reason == NO_RULE

    def test_the_entry_counts_what_it_judged(self, node, build):
        node.enforce(web="egress")
        key = node.policy(70, "egress", 0, UDP, 53)
        packet = build.udp(node.web, node.server, 40000, 53)
        assert send(node, packet).passed
        row = node.maps.policy.get(key)
        assert (row.packets, row.octets) == (1, len(packet))

    def test_a_local_destination_has_its_ingress_policy_judged_here(self, node, build, names):
        web, db, *_ = names
        node.enforce(db="ingress")
        result = send(node, build.tcp(web, db, 40000, 5432))
        event = result.events[0]
        assert result.reason == NO_RULE
        assert (event.endpoint_id, event.policy_id, event.direction) == (node.DB, 80, 1)
        node.policy(80, "ingress", node.WEB_IDENTITY, TCP, 5432)
        assert send(node, build.tcp(web, db, 40000, 5432)).passed
        assert entry(node, web, db, 40000, 5432).flags & CONNTRACK_LOCAL

    def test_both_sides_must_allow_and_egress_speaks_first(self, node, build):
        node.enforce(web="egress", db="ingress")
        result = send(node, build.tcp(node.web, node.db, 40000, 5432))
        assert (result.reason, result.events[0].direction) == (NO_RULE, 0)
        node.policy(70, "egress", node.DB_IDENTITY, TCP, 5432)
        result = send(node, build.tcp(node.web, node.db, 40000, 5432))
        assert (result.reason, result.events[0].direction) == (NO_RULE, 1)
        node.policy(80, "ingress", node.WEB_IDENTITY, TCP, 5432)
        assert send(node, build.tcp(node.web, node.db, 40000, 5432)).passed

    def test_a_destination_that_is_being_removed_is_dropped(self, node, build):
        node.maps.endpoints.delete(node.DB)
        assert send(node, build.tcp(node.web, node.db, 40000, 80)).reason == ENDPOINT_UNKNOWN


class TestRedirect:
    @pytest.mark.parametrize(("kind", "protocol", "proxy"), [("http", TCP, 1), ("dns", TCP, 2), ("dns", UDP, 2)])
    def test_the_flow_is_marked_for_its_proxy(self, node, build, names, kind, protocol, proxy):
        web, _, server, *_ = names
        node.enforce(web="egress")
        node.policy(70, "egress", node.SERVER_IDENTITY, protocol, 80, verdict=kind)
        make = build.tcp if protocol == TCP else build.udp
        result = send(node, make(web, server, 40000, 80))
        assert (result.passed, result.mark) == (True, TO_PROXY)
        assert entry(node, web, server, 40000, 80, protocol).proxy == proxy
        following = build.tcp(web, server, 40000, 80, build.ACK) if protocol == TCP else make(web, server, 40000, 80)
        assert send(node, following).mark == TO_PROXY

    def test_ingress_policy_of_a_local_destination_redirects_too(self, node, build):
        node.enforce(db="ingress")
        node.policy(80, "ingress", node.WEB_IDENTITY, TCP, 80, verdict="http")
        assert send(node, build.tcp(node.web, node.db, 40000, 80)).mark == TO_PROXY

    def test_a_drop_of_one_side_beats_the_redirect_of_the_other(self, node, build):
        node.enforce(web="egress", db="ingress")
        node.policy(70, "egress", node.DB_IDENTITY, TCP, 80, verdict="http")
        assert send(node, build.tcp(node.web, node.db, 40000, 80)).reason == NO_RULE

    def test_two_different_proxies_are_impossible(self, node, build):
        node.enforce(web="egress", db="ingress")
        node.policy(70, "egress", 0, TCP, 53, verdict="dns")
        node.policy(80, "ingress", 0, TCP, 53, verdict="http")
        assert send(node, build.tcp(node.web, node.db, 40000, 53)).reason == REDIRECT_IMPOSSIBLE

    def test_what_is_neither_tcp_nor_udp_cannot_be_redirected(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, SCTP, 80, verdict="http")
        packet = build.ip(node.web, node.server, SCTP, struct.pack(">HHII", 40000, 80, 0, 0))
        assert send(node, packet).reason == REDIRECT_IMPOSSIBLE

    def test_replies_of_a_proxied_flow_go_to_the_proxy(self, node, build):
        node.enforce(db="ingress")
        node.policy(80, "ingress", 0, TCP, 80, verdict="http")
        send(node, build.tcp(node.web, node.db, 40000, 80))
        reply = build.tcp(node.db, node.web, 80, 40000, build.SYN_ACK)
        assert send(node, reply, ifindex=node.db_ifindex).mark == TO_PROXY

    def test_it_is_counted_apart(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        node.policy(70, "egress", 0, TCP, 81)
        before = [node.maps.metrics.get(row).packets for row in (METRIC_FORWARDED, METRIC_REDIRECTED, NO_RULE)]
        for port in (80, 81, 82):
            send(node, build.tcp(node.web, node.server, 40000, port))
        after = [node.maps.metrics.get(row).packets for row in (METRIC_FORWARDED, METRIC_REDIRECTED, NO_RULE)]
        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


class TestToItself:
    """By the node's routes and back (a service's address leads there): the workload is both ends."""

    @pytest.fixture
    def packets(self, node, build, names):
        node.enforce(web="both")
        web = names[0]
        return build.tcp(web, web, 40000, 80), build.tcp(web, web, 40000, 80, build.ACK)

    def test_both_its_directions_have_a_say(self, node, packets):
        begins, _ = packets
        assert send(node, begins).reason == NO_RULE
        node.policy(70, "egress", node.WEB_IDENTITY, TCP, 80)
        assert send(node, begins).reason == NO_RULE
        node.policy(70, "ingress", node.WEB_IDENTITY, TCP, 80)
        assert send(node, begins).passed

    def test_a_reload_ends_it(self, node, packets):
        begins, goes_on = packets
        rules = [node.policy(70, direction, node.WEB_IDENTITY, TCP, 80) for direction in ("egress", "ingress")]
        assert send(node, begins).passed
        assert send(node, goes_on).passed
        node.maps.policy.delete(rules[1])
        node.revision(2)
        assert send(node, goes_on).reason == NO_RULE
