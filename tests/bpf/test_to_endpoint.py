# SPDX-License-Identifier: Apache-2.0
"""What a workload is about to receive: to_endpoint, the guard behind the other hooks."""

import pytest

from l7bpf.flows import CONNTRACK_FROM_NODE, CONNTRACK_LOCAL, ConntrackKey

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
TO_CLIENT, TO_SERVER = 0xA00, 0xB00
NO_RULE, UNKNOWN_L3, MALFORMED, UNKNOWN_L4, FRAGMENT = 133, 139, 134, 142, 157
INVALID_SOURCE = 132
REDIRECT_IMPOSSIBLE, FORGED_MARK, ENDPOINT_UNKNOWN = 201, 202, 203
ELSEWHERE = 1
"""Some interface that a forwarded packet came in by."""


def deliver(node, packet, *, forwarded=True, **options):
    return node.run("to_endpoint", packet, ingress_ifindex=ELSEWHERE if forwarded else 0, **options)


def entry(node, source, destination, sport, dport, protocol=TCP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


class TestProxy:
    def test_its_packets_to_the_client_pass(self, node, build):
        node.enforce(web="both")
        answer = build.tcp(node.server, node.web, 80, 40000, build.SYN_ACK)
        assert deliver(node, answer, forwarded=False, mark=TO_CLIENT).passed
        fragment = build.ip(node.server, node.web, UDP, bytes(16), fragment=100)
        assert deliver(node, fragment, forwarded=False, mark=TO_CLIENT).passed

    @pytest.mark.parametrize("mark", [TO_CLIENT, TO_SERVER])
    def test_its_marks_are_not_believed_of_a_forwarded_packet(self, node, build, mark):
        result = deliver(node, build.tcp(node.server, node.web, 80, 40000), mark=mark)
        assert (result.reason, result.events[0].endpoint_id) == (FORGED_MARK, node.WEB)

    @pytest.mark.parametrize("kind", ["tcp", "udp"])
    def test_its_connection_to_a_workload_passes_and_is_remembered(self, node, build, kind):
        node.enforce(web="both")
        packet = getattr(build, kind)(node.stranger, node.web, 40000, 80)
        assert deliver(node, packet, forwarded=False, mark=TO_SERVER).passed
        row = entry(node, node.stranger, node.web, 40000, 80, TCP if kind == "tcp" else UDP)
        assert (row.upstream, row.proxy) == (1, 0)
        reply = getattr(build, kind)(node.web, node.stranger, 80, 40000)
        if kind == "tcp":
            reply = build.tcp(node.web, node.stranger, 80, 40000, build.SYN_ACK)
        assert node.run("from_endpoint", reply).mark == 0x200

    def test_the_clients_own_entry_is_marked_where_the_tuple_is_the_same(self, node, build):
        node.enforce(db="ingress")
        node.policy(80, "ingress", 0, TCP, 80, verdict="http")
        node.run("from_endpoint", build.tcp(node.web, node.db, 40000, 80))
        on_db = {"ifindex": node.db_ifindex, "forwarded": False, "mark": TO_SERVER}
        assert deliver(node, build.tcp(node.web, node.db, 40000, 80), **on_db).passed
        row = entry(node, node.web, node.db, 40000, 80)
        assert (row.proxy, row.upstream) == (1, 1)

    def test_a_connection_that_a_full_table_let_go_of_is_remembered_again(self, node, build):
        """By any packet of the proxy but a reset, behind which nothing comes."""
        for flags, remembered in ((build.RST, False), (build.ACK, True)):
            packet = build.tcp(node.stranger, node.web, 40000, 80, flags)
            assert deliver(node, packet, forwarded=False, mark=TO_SERVER).passed
            row = entry(node, node.stranger, node.web, 40000, 80)
            assert (row is not None and row.upstream == 1) is remembered

    def test_a_proxied_flow_reaches_the_workload_by_the_proxy_only(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        node.run("from_endpoint", build.tcp(node.web, node.server, 40000, 80))
        answer = build.tcp(node.server, node.web, 80, 40000, build.ACK)
        dropped = deliver(node, answer)
        assert dropped.reason == REDIRECT_IMPOSSIBLE
        # The flow as it began: the event of an answer had the client's port for the server's.
        assert (dropped.events[0].source_port, dropped.events[0].destination_port) == (40000, 80)
        assert deliver(node, answer, forwarded=False).passed  # a reset by the node's kernel has no mark


class TestFlows:
    def test_what_was_judged_where_it_came_in_passes(self, node, build):
        node.enforce(web="ingress")
        node.policy(70, "ingress", 0, TCP, 80)
        packet = build.tcp(node.server, node.web, 40000, 80)
        assert node.run("from_uplink", packet).passed
        row = entry(node, node.server, node.web, 40000, 80)
        assert deliver(node, packet).passed
        assert entry(node, node.server, node.web, 40000, 80).packets == row.packets + 1

    def test_replies_pass(self, node, build):
        node.enforce(web="ingress")
        assert node.run("from_endpoint", build.tcp(node.web, node.server, 40000, 80)).passed
        assert deliver(node, build.tcp(node.server, node.web, 80, 40000, build.SYN_ACK)).passed

    def test_a_syn_is_no_reply(self, node, build):
        node.enforce(web="ingress")
        assert node.run("from_endpoint", build.tcp(node.web, node.server, 40000, 80)).passed
        assert deliver(node, build.tcp(node.server, node.web, 80, 40000)).reason == NO_RULE

    def test_what_came_in_by_another_way_is_judged_here(self, node, build):
        node.enforce(web="ingress")
        result = deliver(node, build.tcp(node.server, node.web, 40000, 80))
        event = result.events[0]
        assert result.reason == NO_RULE
        assert (event.endpoint_id, event.direction, event.source_identity) == (node.WEB, 1, node.SERVER_IDENTITY)
        node.policy(70, "ingress", node.SERVER_IDENTITY, TCP, 80)
        assert deliver(node, build.tcp(node.server, node.web, 40000, 80)).passed
        assert entry(node, node.server, node.web, 40000, 80) is not None

    @pytest.mark.parametrize("suffix", ["", "6"])
    def test_a_workloads_source_is_believed_only_by_the_way_of_that_workload(self, node, build, suffix):
        """Where nothing is attached nobody has checked it, be it for a new flow or for one that is known."""
        web, db = getattr(node, f"web{suffix}"), getattr(node, f"db{suffix}")
        node.enforce(web="ingress")
        node.policy(70, "ingress", node.DB_IDENTITY, TCP, 80)
        begun = build.tcp(db, web, 40000, 80)
        assert deliver(node, begun).reason == INVALID_SOURCE
        assert node.run("from_endpoint", begun, ifindex=node.db_ifindex).passed
        assert deliver(node, begun).reason == INVALID_SOURCE
        assert node.run("to_endpoint", begun, ingress_ifindex=node.db_ifindex).passed

    def test_an_answer_of_another_workload_too_comes_by_its_own_way(self, node, build):
        assert node.run("from_endpoint", build.tcp(node.web, node.db, 40000, 80)).passed
        answer = build.tcp(node.db, node.web, 80, 40000, build.SYN_ACK)
        assert deliver(node, answer).reason == INVALID_SOURCE
        assert node.run("to_endpoint", answer, ingress_ifindex=node.db_ifindex).passed

    def test_without_policy_it_passes_and_is_remembered(self, node, build):
        assert deliver(node, build.udp(node.stranger6, node.web6, 40000, 80)).passed
        assert entry(node, node.stranger6, node.web6, 40000, 80, UDP) is not None

    def test_it_is_too_late_for_a_redirect(self, node, build):
        node.enforce(web="ingress")
        node.policy(70, "ingress", 0, TCP, 80, verdict="http")
        assert deliver(node, build.tcp(node.server, node.web, 40000, 80)).reason == REDIRECT_IMPOSSIBLE
        assert entry(node, node.server, node.web, 40000, 80) is None

    def test_an_address_that_is_not_registered_does_not_escape_the_interfaces_policy(self, node, build):
        node.enforce(web="ingress")
        assert deliver(node, build.tcp(node.server, "192.0.2.99", 40000, 80)).reason == NO_RULE

    def test_a_known_flow_of_an_older_revision_is_judged_again(self, node, build):
        node.enforce(web="ingress")
        key = node.policy(70, "ingress", 0, TCP, 80)
        packet = build.tcp(node.server, node.web, 40000, 80, build.ACK)
        assert deliver(node, packet).passed
        node.maps.policy.delete(key)
        node.revision(2)
        assert deliver(node, packet).reason == NO_RULE

    def test_an_interface_that_is_nobodys_is_dropped(self, node, build):
        node.maps.endpoint_by_ifindex.delete(node.web_ifindex)
        assert deliver(node, build.tcp(node.server, node.web, 40000, 80)).reason == ENDPOINT_UNKNOWN


class TestNode:
    def test_the_node_itself_may_always_connect(self, node, build):
        node.enforce(web="both")
        assert deliver(node, build.tcp(node.node, node.web, 40000, 80), forwarded=False).passed
        flags = entry(node, node.node, node.web, 40000, 80).flags
        assert flags & CONNTRACK_FROM_NODE
        assert flags & CONNTRACK_LOCAL
        assert node.run("from_endpoint", build.tcp(node.web, node.node, 80, 40000, build.SYN_ACK)).passed

    def test_its_connections_outlive_a_revision(self, node, build):
        node.enforce(web="both")
        deliver(node, build.tcp(node.node, node.web, 40000, 80), forwarded=False)
        node.revision(2)
        assert node.run("from_endpoint", build.tcp(node.web, node.node, 80, 40000, build.ACK)).passed
        node.revision(3)
        assert deliver(node, build.tcp(node.node, node.web, 40000, 80, build.ACK), forwarded=False).passed

    def test_its_address_on_a_forwarded_packet_means_nothing(self, node, build):
        node.enforce(web="ingress")
        assert deliver(node, build.tcp(node.node, node.web, 40000, 80)).reason == NO_RULE

    def test_neighbour_traffic_of_the_node_passes(self, node, build):
        node.enforce(web="both")
        assert deliver(node, build.icmp("fe80::1", node.web6, 135, data=bytes(16)), forwarded=False).passed
        assert deliver(node, build.icmp(node.server6, node.web6, 135, data=bytes(16))).reason == NO_RULE
        assert deliver(node, build.arp(), forwarded=False).passed

    def test_errors_about_the_workloads_packets_pass(self, node, build):
        node.enforce(web="ingress")
        packet = build.udp(node.web, node.server, 40000, 80)
        assert node.run("from_endpoint", packet).passed
        assert deliver(node, build.icmp("203.0.113.1", node.web, 11, data=packet[14:42])).passed
        assert deliver(node, build.icmp("203.0.113.1", node.web, 11, data=bytes(28))).reason == NO_RULE


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda b, _: b.frame(0x88CC, bytes(20)), UNKNOWN_L3),
        (lambda b, n: b.tcp(n.server, n.web, 1, 2)[:40], MALFORMED),
        (lambda b, n: b.ip(n.server, n.web, UDP, bytes(16), fragment=9), FRAGMENT),
        (lambda b, n: b.ip(n.server, n.web, 47, bytes(16)), UNKNOWN_L4),
    ],
)
def test_what_cannot_be_read_is_dropped(node, build, make, reason):
    node.enforce(web="ingress")
    node.policy(70, "ingress", 0)
    assert deliver(node, make(build, node)).reason == reason
