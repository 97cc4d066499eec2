# SPDX-License-Identifier: Apache-2.0
"""What crosses an interface to other machines: from_uplink and to_uplink."""

import pytest

from l7bpf.flows import CONNTRACK_FIN, CONNTRACK_FINS, CONNTRACK_RESET, ConntrackKey

TCP, UDP = 6, 17
TO_PROXY, TO_SERVER = 0x200, 0xB00
INVALID_SOURCE, NO_RULE, MALFORMED, FRAGMENT = 132, 133, 134, 157
PROXY_UNAVAILABLE = 200


def arrive(node, packet, **options):
    return node.run("from_uplink", packet, **options)


def leave(node, packet, **options):
    return node.run("to_uplink", packet, **options)


def entry(node, source, destination, sport, dport, protocol=TCP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


class TestArriving:
    @pytest.mark.parametrize(
        "make",
        [
            lambda b, n: b.tcp(n.stranger, n.node, 40000, 22),
            lambda b, n: b.tcp(n.stranger6, n.node6, 40000, 22),
            lambda b, _: b.arp(),
            lambda b, _: b.frame(0x88CC, bytes(40)),
            lambda b, n: b.tcp(n.stranger, n.node, 40000, 22)[:36],
            lambda b, n: b.ip(n.stranger, n.node, 17, bytes(16), fragment=100),
            lambda b, n: b.ip(n.stranger, n.node, 50, bytes(16)),
            lambda b, n: b.with_options(b.tcp(n.stranger, n.node, 40000, 22), bytes.fromhex("44040500")),
        ],
    )
    def test_what_is_not_for_a_workload_is_left_alone(self, node, build, make):
        node.enforce(web="both", db="both")
        result = arrive(node, make(build, node), mark=0x123)
        assert (result.passed, result.mark) == (True, 0x123)
        assert len(node.maps.conntrack) == 0

    def test_ingress_policy_decides(self, node, build):
        node.enforce(web="ingress")
        packet = build.tcp(node.server, node.web, 40000, 80)
        result = arrive(node, packet)
        assert (result.reason, result.events[0].direction) == (NO_RULE, 1)
        node.policy(70, "ingress", node.SERVER_IDENTITY, TCP, 80)
        assert arrive(node, packet).passed
        assert entry(node, node.server, node.web, 40000, 80) is not None

    def test_ingress_policy_redirects(self, node, build):
        node.enforce(web="ingress")
        node.policy(70, "ingress", node.WORLD, TCP, 80, verdict="http")
        result = arrive(node, build.tcp(node.stranger6, node.web6, 40000, 80), mark=0x5000)
        assert result.mark == 0x5000 | TO_PROXY
        assert arrive(node, build.tcp(node.stranger6, node.web6, 40000, 80, build.ACK)).mark == TO_PROXY

    def test_replies_to_a_workload_pass(self, node, build):
        node.enforce(web="ingress")
        node.run("from_endpoint", build.tcp(node.web, node.server, 40000, 80))
        result = arrive(node, build.tcp(node.server, node.web, 80, 40000, build.SYN_ACK))
        assert (result.passed, result.mark) == (True, 0)

    def test_replies_to_the_proxy_are_marked(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        node.run("from_endpoint", build.tcp(node.web, node.server, 40000, 80))
        assert arrive(node, build.tcp(node.server, node.web, 80, 40000, build.SYN_ACK)).mark == TO_PROXY

    @pytest.mark.parametrize("kind", ["tcp", "udp"])
    def test_replies_to_a_port_of_the_proxys_own_are_marked(self, node, build, kind):
        make = getattr(build, kind)
        leave(node, make(node.web, node.server, 61000, 80), mark=TO_SERVER)
        reply = make(node.server, node.web, 80, 61000, *([build.SYN_ACK] if kind == "tcp" else []))
        assert arrive(node, reply).mark == TO_PROXY

    def test_and_still_are_under_a_new_revision_that_allows_the_flow(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")
        leave(node, build.tcp(node.web, node.server, 61000, 80), mark=TO_SERVER)
        node.revision(2)
        assert arrive(node, build.tcp(node.server, node.web, 80, 61000, build.ACK)).mark == TO_PROXY
        row = entry(node, node.web, node.server, 61000, 80)
        assert (row.proxy, row.upstream, row.revision) == (0, 1, 2)

    def test_errors_about_the_proxys_packets_are_marked(self, node, build):
        packet = build.tcp(node.web6, node.server6, 61000, 80)
        leave(node, packet, mark=TO_SERVER)
        assert arrive(node, build.icmp(node.stranger6, node.web6, 2, data=packet[14:])).mark == TO_PROXY

    @pytest.mark.parametrize("suffix", ["", "6"], ids=["ipv4", "ipv6"])
    def test_a_router_reports_about_packets_that_were_not_sent_to_it(self, node, build, suffix):
        web, server, router = (getattr(node, name + suffix) for name in ("web", "server", "stranger"))
        error = 3 if suffix else 11
        node.enforce(web="both")
        node.policy(70, "egress", 0, UDP, 80)
        packet = build.udp(web, server, 40000, 80)
        assert node.run("from_endpoint", packet).passed
        assert arrive(node, build.icmp(router, web, error, data=packet[14:])).passed
        unknown = build.udp(web, server, 40000, 81)[14:]
        assert arrive(node, build.icmp(router, web, error, data=unknown)).reason == NO_RULE

    @pytest.mark.parametrize("source", ["db", "db6", "web", "node", "node6"])
    def test_an_address_of_this_node_cannot_come_from_outside(self, node, build, source):
        node.enforce(web="both", db="both")
        destination = node.web6 if source.endswith("6") else node.web
        result = arrive(node, build.tcp(getattr(node, source), destination, 40000, 80))
        assert (result.reason, result.events[0].endpoint_id) == (INVALID_SOURCE, node.WEB)

    def test_nor_as_part_of_a_flow_within_the_node(self, node, build):
        node.run("from_endpoint", build.tcp(node.web, node.db, 40000, 80))
        assert arrive(node, build.tcp(node.db, node.web, 80, 40000, build.ACK)).reason == INVALID_SOURCE

    def test_a_connection_met_half_way_passes_by_its_own_merits_only(self, node, build):
        node.enforce(web="egress")
        assert arrive(node, build.tcp(node.server, node.web, 80, 40000, build.ACK)).passed
        assert len(node.maps.conntrack) == 0
        node.enforce(web="")
        assert arrive(node, build.tcp(node.server, node.web, 80, 40000, build.ACK)).passed
        assert entry(node, node.server, node.web, 80, 40000) is not None

    def test_what_a_workload_cannot_be_judged_for_is_dropped(self, node, build):
        node.enforce(web="ingress")
        node.policy(70, "ingress", 0)
        assert arrive(node, build.tcp(node.server, node.web, 1, 2)[:36]).reason == MALFORMED
        assert arrive(node, build.ip(node.server, node.web, UDP, bytes(16), fragment=9)).reason == FRAGMENT


class TestLeaving:
    @pytest.mark.parametrize("kind", ["tcp", "udp"])
    def test_the_proxys_connection_is_remembered(self, node, build, kind):
        result = leave(node, getattr(build, kind)(node.web, node.server, 61000, 80), mark=TO_SERVER)
        assert (result.passed, result.mark) == (True, TO_SERVER)
        row = entry(node, node.web, node.server, 61000, 80, TCP if kind == "tcp" else UDP)
        assert (row.upstream, row.proxy, row.revision) == (1, 0, 1)

    def test_the_workloads_entry_keeps_its_verdict(self, node, build):
        node.enforce(web="egress")
        node.policy(70, "egress", 0, UDP, 53, verdict="dns")
        node.run("from_endpoint", build.udp(node.web, node.server, 40000, 53))
        leave(node, build.udp(node.web, node.server, 40000, 53), mark=TO_SERVER)
        row = entry(node, node.web, node.server, 40000, 53, UDP)
        assert (row.proxy, row.upstream) == (2, 1)

    @pytest.mark.parametrize("suffix", ["", "6"])
    @pytest.mark.parametrize("forwarded", [0, 1])
    def test_what_should_have_gone_to_a_proxy_leaves_by_no_uplink(self, node, build, suffix, forwarded):
        """It is here because the rule that leads there is gone."""
        question = build.udp(getattr(node, f"web{suffix}"), getattr(node, f"server{suffix}"), 4000, 53)
        result = leave(node, question, mark=TO_PROXY, ingress_ifindex=forwarded and node.web_ifindex)
        assert (result.reason, result.events[0].endpoint_id) == (PROXY_UNAVAILABLE, node.WEB)

    def test_a_proxied_connection_is_over_when_both_its_client_and_its_server_are(self, node, build):
        web, server = node.web, node.server
        node.enforce(web="egress")
        node.policy(70, "egress", 0, TCP, 80, verdict="http")

        def state():
            return entry(node, web, server, 40000, 80, TCP).state & CONNTRACK_FINS

        for flags in (build.SYN, build.ACK, build.FIN):
            assert node.run("from_endpoint", build.tcp(web, server, 40000, 80, flags)).mark == TO_PROXY
        assert state() == CONNTRACK_FINS  # nobody was asked
        leave(node, build.tcp(web, server, 40000, 80), mark=TO_SERVER)
        assert state() == CONNTRACK_FIN  # somebody is: the client has closed its half only
        leave(node, build.tcp(web, server, 40000, 80, build.ACK), mark=TO_SERVER)
        assert state() == CONNTRACK_FIN
        leave(node, build.tcp(web, server, 40000, 80, build.RST), mark=TO_SERVER)
        assert state() == CONNTRACK_FINS
        assert not entry(node, web, server, 40000, 80, TCP).state & CONNTRACK_RESET

    def test_a_proxys_connection_that_was_pushed_out_has_its_answers_again_after_its_next_packet(self, node, build):
        """From a port of the proxy's own, that the workload's packets never show; its ingress is enforced."""
        node.enforce(web="both")
        answer = build.tcp(node.server, node.web, 80, 61000, build.ACK)
        assert node.run("from_uplink", answer).reason == NO_RULE
        assert leave(node, build.tcp(node.web, node.server, 61000, 80, build.ACK), mark=TO_SERVER).passed
        assert node.run("from_uplink", answer).mark == TO_PROXY
        # The workload's own packets of that tuple are not let by it.
        assert node.run("from_endpoint", build.tcp(node.web, node.server, 61000, 80, build.ACK)).reason == NO_RULE

    @pytest.mark.parametrize(
        ("options", "flags"),
        [
            ({"mark": 0}, 2),
            ({"mark": 0xA00}, 2),
            ({"mark": TO_SERVER, "ingress_ifindex": 1}, 2),  # forwarded: not the proxy's
            ({"mark": TO_SERVER}, 4),  # a reset: nothing comes back
        ],
    )
    def test_nothing_else_is(self, node, build, options, flags):
        assert leave(node, build.tcp(node.web, node.server, 61000, 80, flags), **options).passed
        assert len(node.maps.conntrack) == 0
