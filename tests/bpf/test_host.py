# SPDX-License-Identifier: Apache-2.0
"""The node itself as an endpoint: what the programs at its uplinks and at its workloads judge by host policies."""

import pytest

from l7bpf.layouts import Endpoint

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
HOST, POLICY = 65535, 90
NO_RULE, DENIED, INVALID_SOURCE = 133, 134, 132
AUDIT = 4


def arrive(node, packet, **options):
    return node.run("from_uplink", packet, **options)


def leave(node, packet, **options):
    return node.run("to_uplink", packet, **options)


@pytest.fixture(params=["ipv4", "ipv6"])
def ends(request, node):
    """The node, a stranger and web, in one family."""
    if request.param == "ipv4":
        return node.node, node.stranger, node.web
    return node.node6, node.stranger6, node.web6


@pytest.fixture
def host(node):
    """Some policy selects the node: both directions denied by default."""

    def enforce(flags):
        node.maps.endpoints.update(HOST, Endpoint(POLICY, node.NODE_IDENTITY, 0, flags))
        for address in (node.node, node.node6):
            node.maps.endpoint_by_address.update(address, HOST)

    enforce(3)
    return enforce


def test_who_comes_in_and_the_answers(node, build, host, ends):
    here, stranger, _ = ends
    assert arrive(node, build.tcp(stranger, here, 40000, 22)).reason == NO_RULE
    node.policy(POLICY, "ingress", node.WORLD, TCP, 22)
    assert arrive(node, build.tcp(stranger, here, 40000, 22)).passed
    assert leave(node, build.tcp(here, stranger, 22, 40000, build.SYN_ACK)).passed
    assert arrive(node, build.tcp(stranger, here, 40000, 22, build.ACK)).passed
    assert arrive(node, build.tcp(stranger, here, 40000, 23)).reason == NO_RULE


def test_where_it_goes_and_the_answers(node, build, host, ends):
    here, stranger, _ = ends
    result = leave(node, build.udp(here, stranger, 40000, 53))
    assert (result.reason, result.events[0].endpoint_id, result.events[0].direction) == (NO_RULE, HOST, 0)
    node.policy(POLICY, "egress", node.WORLD, UDP, 53)
    assert leave(node, build.udp(here, stranger, 40000, 53)).passed
    assert arrive(node, build.udp(stranger, here, 53, 40000)).passed
    assert arrive(node, build.udp(stranger, here, 53, 40001)).reason == NO_RULE


def test_an_established_connection_is_judged_again(node, build, host, ends):
    here, stranger, _ = ends
    node.policy(POLICY, "ingress", node.WORLD, TCP, 22)
    assert arrive(node, build.tcp(stranger, here, 40000, 22)).passed
    key = node.policy(POLICY, "ingress", node.WORLD, TCP, 22)
    node.maps.policy.delete(key)
    node.revision(2)
    assert arrive(node, build.tcp(stranger, here, 40000, 22, build.ACK)).reason == NO_RULE


def test_an_audited_node_lets_pass_and_tells(node, build, host, ends):
    here, stranger, _ = ends
    host(3 | AUDIT)
    result = arrive(node, build.tcp(stranger, here, 40000, 22))
    assert (result.passed, result.audited) == (True, NO_RULE)
    assert leave(node, build.tcp(here, stranger, 40000, 80)).audited == NO_RULE


def test_without_a_policy_that_selects_it_nothing_is_looked_at(node, build, ends):
    here, stranger, _ = ends
    for result in (
        arrive(node, build.tcp(stranger, here, 40000, 22)),
        leave(node, build.tcp(here, stranger, 40000, 80)),
    ):
        assert result.passed
    assert len(node.maps.conntrack) == 0


def test_between_it_and_a_workload_both_ends_have_their_say(node, build, host, ends):
    here, _, web = ends
    node.enforce(web="egress")
    ask = build.tcp(web, here, 40000, 53)
    assert node.run("from_endpoint", ask).reason == NO_RULE
    node.policy(70, "egress", node.NODE_IDENTITY, TCP, 53)
    result = node.run("from_endpoint", ask)
    assert (result.reason, result.events[0].endpoint_id) == (NO_RULE, HOST)
    node.policy(POLICY, "ingress", node.WEB_IDENTITY, TCP, 53)
    assert node.run("from_endpoint", ask).passed


def test_nobody_outside_is_the_node(node, build, host, ends):
    here, _, web = ends
    node.policy(POLICY, "ingress", node.NODE_IDENTITY)
    assert arrive(node, build.tcp(here, here, 40000, 22)).reason == INVALID_SOURCE
    assert arrive(node, build.tcp(web, here, 40000, 22)).reason == INVALID_SOURCE


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_what_it_forwards_in_its_own_name_is_not_judged_and_is_answered_under_every_revision(
    node, build, host, ends, kind
):
    here, stranger, _ = ends
    make = getattr(build, kind)
    flags = {"tcp": ([], [build.SYN_ACK], [build.ACK]), "udp": ([], [], [])}[kind]
    assert leave(node, make(here, stranger, 61000, 80, *flags[0]), ingress_ifindex=node.web_ifindex).passed
    assert arrive(node, make(stranger, here, 80, 61000, *flags[1])).passed
    node.revision(2)
    assert leave(node, make(here, stranger, 61000, 80, *flags[2]), ingress_ifindex=node.web_ifindex).passed
    assert arrive(node, make(stranger, here, 80, 61000, *flags[2])).passed
    assert arrive(node, make(stranger, here, 81, 61000, *flags[0])).reason == NO_RULE


def test_what_it_forwards_for_others_is_left_alone(node, build, host, ends):
    _, stranger, web = ends
    assert leave(node, build.tcp(web, stranger, 40000, 80), ingress_ifindex=node.web_ifindex).passed
    assert len(node.maps.conntrack) == 0


def test_an_answer_from_behind_it_does_not_reopen_what_was_denied_to_come_in(node, build, host, ends):
    here, stranger, _ = ends
    key = node.policy(POLICY, "ingress", node.WORLD, TCP, 8080)
    assert arrive(node, build.tcp(stranger, here, 40000, 8080)).passed  # for a port that leads to a workload
    node.maps.policy.delete(key)
    node.revision(2)
    answer = build.tcp(here, stranger, 8080, 40000, build.SYN_ACK)
    assert leave(node, answer, ingress_ifindex=node.web_ifindex).passed
    assert arrive(node, build.tcp(stranger, here, 40000, 8080, build.ACK)).reason == NO_RULE


def test_neighbours_are_found_whatever_policy_says(node, build, host):
    assert arrive(node, build.arp()).passed
    assert leave(node, build.arp()).passed
    assert arrive(node, build.icmp(node.stranger, node.node, 8)).reason == NO_RULE
    node.policy(POLICY, "ingress", node.WORLD, ICMP, 8)
    assert arrive(node, build.icmp(node.stranger, node.node, 8)).passed
