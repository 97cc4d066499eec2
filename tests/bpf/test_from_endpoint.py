# SPDX-License-Identifier: Apache-2.0
"""What a workload sends: from_endpoint, one packet at a time."""

import struct

import pytest

from l7bpf.flows import CONNTRACK_DENIED, CONNTRACK_LOCAL, ConntrackEntry, ConntrackKey
from l7bpf.layouts import METRIC_EVENTS_LOST, METRIC_FORWARDED, METRIC_REDIRECTED, IpcacheEntry

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
TO_PROXY = 0x200
(
    INVALID_SOURCE,
    NO_RULE,
    MALFORMED,
    UNKNOWN_L3,
    UNKNOWN_L4,
    FRAGMENT,
    DENY_RULE,
    REDIRECT_IMPOSSIBLE,
    ENDPOINT_UNKNOWN,
) = (132, 133, 134, 139, 142, 157, 181, 201, 203)

ADDRESSES = {4: ("web", "db", "server", "node", "stranger"), 6: ("web6", "db6", "server6", "node6", "stranger6")}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def names(node, request):
    """web, db, server, node and stranger, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


def entry(node, source, destination, sport, dport, protocol=TCP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


def ack(build, kind):
    """Of a packet that begins nothing, what `build` needs to know beyond the tuple."""
    return [build.ACK] if kind == "tcp" else []


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


class TestConntrack:
    def test_packets_of_a_known_flow_ask_no_policy(self, node, build, names):
        web, _, server, *_ = names
        node.enforce(web="egress")
        key = node.policy(70, "egress", 0, TCP, 80)
        send(node, build.tcp(web, server, 40000, 80))
        node.maps.policy.delete(key)
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).passed
        assert entry(node, web, server, 40000, 80).packets == 2

    def test_replies_pass_without_a_rule(self, node, build, names):
        _, db, server, *_ = names
        node.enforce(db="egress")
        assert node.run("from_uplink", build.tcp(server, db, 40000, 5432)).passed
        reply = build.tcp(db, server, 5432, 40000, build.SYN_ACK)
        assert send(node, reply, ifindex=node.db_ifindex).passed

    def test_a_syn_the_other_way_is_no_reply(self, node, build):
        node.enforce(web="egress")
        assert node.run("from_uplink", build.tcp(node.server, node.web, 40000, 80)).passed
        assert send(node, build.tcp(node.web, node.server, 80, 40000)).reason == NO_RULE

    def test_a_syn_is_judged_anew(self, node, build):
        node.enforce(web="egress")
        key = node.policy(70, "egress", 0, TCP, 80, verdict="http")
        assert send(node, build.tcp(node.web, node.server, 40000, 80)).mark == TO_PROXY
        node.maps.policy.delete(key)
        assert send(node, build.tcp(node.web, node.server, 40000, 80)).reason == NO_RULE
        node.policy(70, "egress", 0, TCP, 80)
        assert send(node, build.tcp(node.web, node.server, 40000, 80)).mark == 0
        assert entry(node, node.web, node.server, 40000, 80).proxy == 0

    def test_a_connection_met_half_way_is_judged_as_new(self, node, build):
        node.enforce(web="egress")
        packet = build.tcp(node.web, node.server, 40000, 80, build.ACK)
        assert send(node, packet).reason == NO_RULE
        node.policy(70, "egress", 0, TCP, 80)
        assert send(node, packet).passed
        assert entry(node, node.web, node.server, 40000, 80) is not None

    def test_a_connection_met_half_way_opens_no_way_back_that_policy_closes(self, node, build):
        """db answers on a connection that web began and is no longer allowed to have."""
        node.enforce(web="egress")
        answer = build.tcp(node.db, node.web, 5432, 40000, build.ACK)
        assert send(node, answer, ifindex=node.db_ifindex).passed
        assert send(node, build.tcp(node.web, node.db, 40000, 5432, build.ACK)).reason == NO_RULE

    @pytest.mark.parametrize(("protocol", "seconds"), [(TCP, 8000), (UDP, 60)])
    def test_a_flow_that_was_silent_too_long_is_judged_again(self, node, build, protocol, seconds):
        node.enforce(web="egress")
        make = (
            (lambda: build.tcp(node.web, node.server, 40000, 80, build.ACK))
            if protocol == TCP
            else (lambda: build.udp(node.web, node.server, 40000, 80))
        )
        key = node.policy(70, "egress", 0, protocol, 80)
        assert send(node, make()).passed
        node.maps.policy.delete(key)
        flow = ConntrackKey(node.web, node.server, 40000, 80, protocol)
        row = node.maps.conntrack.get(flow)
        assert send(node, make()).passed
        past = (row.last_seen_ns - (seconds + 1) * 10**9) % 2**64
        node.maps.conntrack.update(flow, ConntrackEntry(past, 1, 1, 1, 0, 0, 0))
        assert send(node, make()).reason == NO_RULE

    def test_a_tuple_that_only_a_proxys_socket_used_is_no_verdict(self, node, build):
        """Else the workload's own packets would slip past the proxy."""
        node.enforce(web="egress")
        node.run("to_uplink", build.tcp(node.web, node.server, 40000, 80), mark=0xB00)
        assert entry(node, node.web, node.server, 40000, 80).upstream == 1
        packet = build.tcp(node.web, node.server, 40000, 80, build.ACK)
        assert send(node, packet).reason == NO_RULE
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        assert send(node, packet).mark == TO_PROXY


class TestRevision:
    def test_a_flow_that_is_still_allowed_goes_on_and_is_dated_anew(self, node, build, names):
        web, _, server, *_ = names
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80)
        send(node, build.tcp(web, server, 40000, 80))
        node.revision(2)
        assert send(node, build.tcp(web, server, 40000, 80, build.ACK)).passed
        assert entry(node, web, server, 40000, 80).revision == 2

    def test_a_flow_that_is_no_longer_allowed_ends_in_both_directions(self, node, build):
        node.enforce(web="egress")
        key = node.policy(70, "egress", 0, TCP, 80)
        send(node, build.tcp(node.web, node.server, 40000, 80))
        node.maps.policy.delete(key)
        node.revision(2)
        forward = build.tcp(node.web, node.server, 40000, 80, build.ACK)
        answer = build.tcp(node.server, node.web, 80, 40000, build.ACK)
        assert send(node, forward).reason == NO_RULE
        result = node.run("from_uplink", answer)
        assert result.reason == NO_RULE
        assert (result.events[0].source, result.events[0].destination_port) == (node.web, 80)
        assert entry(node, node.web, node.server, 40000, 80).flags & CONNTRACK_DENIED
        assert send(node, forward).reason == NO_RULE

    def test_the_answer_alone_finds_out_too(self, node, build):
        node.enforce(web="egress")
        key = node.policy(70, "egress", 0, UDP, 53)
        send(node, build.udp(node.web, node.server, 40000, 53))
        node.maps.policy.delete(key)
        node.revision(2)
        assert node.run("from_uplink", build.udp(node.server, node.web, 53, 40000)).reason == NO_RULE

    def test_it_may_be_allowed_again(self, node, build):
        node.enforce(web="egress")
        key = node.policy(70, "egress", 0, TCP, 80)
        send(node, build.tcp(node.web, node.server, 40000, 80))
        node.maps.policy.delete(key)
        node.revision(2)
        forward = build.tcp(node.web, node.server, 40000, 80, build.ACK)
        assert send(node, forward).reason == NO_RULE
        node.policy(70, "egress", 0, TCP, 80)
        node.revision(3)
        assert send(node, forward).passed
        assert not entry(node, node.web, node.server, 40000, 80).flags & CONNTRACK_DENIED

    def test_the_ingress_policy_of_the_other_end_is_asked_again_too(self, node, build):
        node.enforce(db="ingress")
        key = node.policy(80, "ingress", 0, TCP, 80)
        send(node, build.tcp(node.web, node.db, 40000, 80))
        node.maps.policy.delete(key)
        node.revision(2)
        reply = build.tcp(node.db, node.web, 80, 40000, build.ACK)
        result = send(node, reply, ifindex=node.db_ifindex)
        assert result.reason == NO_RULE
        assert (result.events[0].endpoint_id, result.events[0].direction) == (node.DB, 1)

    def test_a_direct_flow_that_needs_a_proxy_now_goes_to_local_delivery(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80)
        send(node, build.tcp(node.web, node.server, 40000, 80))
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        node.revision(2)
        assert send(node, build.tcp(node.web, node.server, 40000, 80, build.ACK)).mark == TO_PROXY
        assert entry(node, node.web, node.server, 40000, 80).proxy == 1

    @pytest.mark.parametrize("verdict", ["allow", "http"])
    def test_a_proxied_flow_stays_with_its_proxy(self, node, build, verdict):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        send(node, build.tcp(node.web, node.server, 40000, 80))
        node.policy(70, "egress", 0, TCP, 80, verdict=verdict)
        node.revision(2)
        assert send(node, build.tcp(node.web, node.server, 40000, 80, build.ACK)).mark == TO_PROXY

    def test_a_new_policy_id_takes_effect_with_the_revision(self, node, build):
        """The order of a reload: entries, endpoints, revision."""
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80)
        send(node, build.tcp(node.web, node.server, 40000, 80))
        row = node.maps.endpoints.get(node.WEB)
        node.maps.endpoints.update(node.WEB, type(row)(71, row.identity, row.ifindex, row.flags))
        assert send(node, build.tcp(node.web, node.server, 40000, 80, build.ACK)).passed
        assert send(node, build.tcp(node.web, node.server, 40001, 80)).reason == NO_RULE
        node.revision(2)
        assert send(node, build.tcp(node.web, node.server, 40000, 80, build.ACK)).reason == NO_RULE


class TestIcmp:
    def test_policy_names_the_type(self, node, build, names):
        web, _, server, *_ = names
        request, reply, other = (128, 129, 127) if ":" in web else (8, 0, 13)
        protocol = ICMP6 if ":" in web else ICMP
        node.enforce(web="egress")
        result = send(node, build.icmp(web, server, request, 77))
        assert (result.reason, result.events[0].destination_port) == (NO_RULE, request)
        node.policy(70, "egress", 0, protocol, request)
        assert send(node, build.icmp(web, server, request, 77)).passed
        assert send(node, build.icmp(web, server, other, 77)).reason == NO_RULE
        assert send(node, build.icmp(web, server, reply, 77)).reason == NO_RULE

    def test_the_reply_to_a_ping_passes_and_other_replies_do_not(self, node, build, names):
        _, db, server, *_ = names
        request, reply = (128, 129) if ":" in db else (8, 0)
        node.enforce(db="egress")
        assert node.run("from_uplink", build.icmp(server, db, request, 77)).passed
        out = {"ifindex": node.db_ifindex}
        assert send(node, build.icmp(db, server, reply, 77), **out).passed
        assert send(node, build.icmp(db, server, reply, 78), **out).reason == NO_RULE
        assert send(node, build.icmp(db, server, request, 77), **out).reason == NO_RULE

    def test_ids_of_pings_in_opposite_directions_do_not_meet(self, node, build, names):
        """Whatever the id: 0 is the one that reads the same both ways."""
        web, db, *_ = names
        request, reply = (128, 129) if ":" in web else (8, 0)
        assert send(node, build.icmp(web, db, request, 0)).passed
        node.enforce(web="ingress", db="both")
        on_db = {"ifindex": node.db_ifindex}
        assert send(node, build.icmp(db, web, reply, 0), **on_db).passed
        assert send(node, build.icmp(db, web, request, 0), **on_db).reason == NO_RULE
        assert send(node, build.icmp(web, db, reply, 0)).reason == NO_RULE

    def test_a_reply_that_nobody_asked_for_is_no_flow(self, node, build):
        assert send(node, build.icmp(node.web, node.server, 0, 77)).passed
        assert len(node.maps.conntrack) == 0

    def test_a_ping_is_judged_again_by_its_type(self, node, build, names):
        web, _, server, *_ = names
        request, reply = (128, 129) if ":" in web else (8, 0)
        node.enforce(web="egress")
        node.policy(70, "egress", 0, ICMP6 if ":" in web else ICMP, request)
        send(node, build.icmp(web, server, request, 77))
        node.revision(2)
        assert node.run("from_uplink", build.icmp(server, web, reply, 77)).passed

    @pytest.mark.parametrize("inner", ["tcp", "udp"])
    def test_an_error_about_a_known_flow_passes(self, node, build, names, inner):
        web, _, server, _, stranger = names
        error = 1 if ":" in web else 3
        node.enforce(web="egress")
        assert node.run("from_uplink", getattr(build, inner)(server, web, 40000, 80)).passed
        quoted = getattr(build, inner)(server, web, 40000, 80)[14:]
        assert send(node, build.icmp(web, server, error, data=quoted)).passed
        # …but only to the sender of what it quotes, and only about a flow that exists
        assert send(node, build.icmp(web, stranger, error, data=quoted)).reason == NO_RULE
        unknown = getattr(build, inner)(server, web, 40000, 81)[14:]
        assert send(node, build.icmp(web, server, error, data=unknown)).reason == NO_RULE
        assert send(node, build.icmp(web, server, error, data=b"")).reason == NO_RULE

    @pytest.mark.parametrize("inner", ["tcp", "udp"])
    def test_a_workload_is_no_router_that_reports_about_packets_of_others(self, node, build, names, inner):
        web, db, server, *_ = names
        error, make = 1 if ":" in web else 3, getattr(build, inner)
        node.enforce(web="egress")
        assert send(node, make(db, server, 40000, 80), ifindex=node.db_ifindex).passed
        to_client, to_server = make(db, server, 40000, 80)[14:], make(server, db, 80, 40000, *ack(build, inner))[14:]
        assert send(node, build.icmp(web, db, error, data=to_client)).reason == NO_RULE
        assert send(node, build.icmp(web, server, error, data=to_server)).reason == NO_RULE
        # …whereas who did get the packet may
        assert send(node, build.icmp(db, server, error, data=to_server), ifindex=node.db_ifindex).passed

    def test_nor_about_packets_within_the_node(self, node, build, names):
        web, db, *_ = names
        error = 1 if ":" in web else 3
        node.enforce(web="egress", db="egress")
        node.policy(70, "egress", node.DB_IDENTITY, UDP, 80)
        quoted = build.udp(web, db, 40000, 80)
        assert send(node, quoted).passed
        assert send(node, build.icmp(db, web, error, data=quoted[14:]), ifindex=node.db_ifindex).passed
        assert send(node, build.icmp(web, web, error, data=quoted[14:])).reason == NO_RULE
        assert send(node, build.icmp(web, db, error, data=quoted[14:])).reason == NO_RULE

    def test_an_error_may_quote_a_packet_with_options(self, node, build):
        node.enforce(web="egress")
        packet = build.udp(node.server, node.web, 40000, 80)
        assert node.run("from_uplink", packet).passed
        quoted = build.with_options(packet, bytes.fromhex("07070400000000"))[14:]
        assert send(node, build.icmp(node.web, node.server, 3, data=quoted)).passed

    def test_an_error_about_a_proxied_flow_goes_to_the_proxy(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        send(node, build.tcp(node.web, node.server, 40000, 80))
        quoted = build.tcp(node.server, node.web, 80, 40000, build.ACK)[14:42]
        assert send(node, build.icmp(node.web, node.server, 3, data=quoted)).mark == TO_PROXY

    def test_an_error_about_a_flow_of_an_older_revision_is_judged(self, node, build):
        node.enforce(web="egress")
        node.run("from_uplink", build.tcp(node.server, node.web, 40000, 80))
        node.revision(2)
        quoted = build.tcp(node.server, node.web, 40000, 80)[14:]
        assert send(node, build.icmp(node.web, node.server, 3, data=quoted)).reason == NO_RULE


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


def test_events_that_find_no_room_are_counted(node, build):
    node.enforce(web="egress")
    before = node.maps.metrics.get(METRIC_EVENTS_LOST).packets, node.maps.metrics.get(NO_RULE).packets
    runs = 20000
    result = node.run("from_endpoint", build.udp(node.web, node.server, 40000, 80), repeat=runs)
    lost = node.maps.metrics.get(METRIC_EVENTS_LOST).packets - before[0]
    assert not result.passed
    assert lost > 0
    assert len(result.events) + lost == runs == node.maps.metrics.get(NO_RULE).packets - before[1]
