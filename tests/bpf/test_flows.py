# SPDX-License-Identifier: Apache-2.0
"""Flows of a workload: what is remembered of a first packet, and what a new revision makes of it."""

import pytest

from l7bpf.flows import CONNTRACK_DENIED, CONNTRACK_LOCAL, ConntrackEntry, ConntrackKey

TCP, UDP = 6, 17
TO_PROXY = 0x200
NO_RULE = 133

ADDRESSES = {4: ("web", "db", "server", "node", "stranger"), 6: ("web6", "db6", "server6", "node6", "stranger6")}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def names(node, request):
    """web, db, server, node and stranger, in both families."""
    return [getattr(node, name) for name in ADDRESSES[request.param]]


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


def entry(node, source, destination, sport, dport, protocol=TCP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


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


def test_a_workload_that_calls_itself_by_way_of_the_node_is_judged_by_both_its_policies(node, build, names):
    web = names[0]
    syn, answer = build.tcp(web, web, 40000, 80), build.tcp(web, web, 80, 40000, build.SYN_ACK)
    node.enforce(web="both")
    assert send(node, syn).reason == NO_RULE
    node.policy(70, "egress", node.WEB_IDENTITY, TCP, 80)
    result = send(node, syn)
    assert (result.reason, result.events[0].direction) == (NO_RULE, 1)
    node.policy(70, "ingress", node.WEB_IDENTITY, TCP, 80)
    for packet in (syn, answer):
        assert send(node, packet).passed
        assert node.run("to_endpoint", packet, ingress_ifindex=node.web_ifindex).passed
    assert entry(node, web, web, 40000, 80).flags == CONNTRACK_LOCAL
