# SPDX-License-Identifier: Apache-2.0
"""An audited endpoint: what its policy denies passes, and is reported when it is judged."""

import pytest

from l7bpf.flows import CONNTRACK_GUESSED, ConntrackKey
from l7bpf.layouts import METRIC_AUDITED, METRIC_FORWARDED, PolicyKey

TCP, UDP, ICMP, GRE = 6, 17, 1, 47
EGRESS, INGRESS = 0, 1
TO_PROXY, FORGED = 0x200, 0xB00
INVALID_SOURCE, NO_RULE, UNKNOWN_L4, FRAGMENT, DENY_RULE, REDIRECT_IMPOSSIBLE, FORGED_MARK, UNKNOWN_ENDPOINT = (
    132,
    133,
    142,
    157,
    181,
    201,
    202,
    203,
)


def send(node, packet, **options):
    return node.run("from_endpoint", packet, **options)


def arrive(node, packet, **options):
    return node.run("from_uplink", packet, **options)


def entry(node, source, destination, sport, dport, protocol=TCP):
    return node.maps.conntrack.get(ConntrackKey(source, destination, sport, dport, protocol))


def test_what_no_rule_allows_passes_and_is_reported_once_for_the_flow(node, build):
    node.enforce(web="both audit")
    packet = build.tcp(node.web, node.server, 40000, 80)
    result = send(node, packet)
    assert result.audited == NO_RULE
    event = result.events[0]
    assert (event.endpoint_id, event.policy_id, event.direction, event.cookie) == (node.WEB, 70, EGRESS, 0)
    assert (event.source, event.destination, event.source_port, event.destination_port, event.protocol) == (
        node.web,
        node.server,
        40000,
        80,
        TCP,
    )
    assert (event.source_identity, event.destination_identity) == (node.WEB_IDENTITY, node.SERVER_IDENTITY)
    for later in (
        send(node, build.tcp(node.web, node.server, 40000, 80, build.ACK)),
        arrive(node, build.tcp(node.server, node.web, 80, 40000, build.SYN_ACK)),
        node.run("to_endpoint", build.tcp(node.server, node.web, 80, 40000, build.ACK), ingress_ifindex=99),
    ):
        assert (later.passed, later.events) == (True, ())


def test_a_deny_rule_is_reported_by_its_cookie(node, build):
    node.enforce(web="egress audit")
    node.policy(70, "egress", 0, verdict="allow")
    key = node.policy(70, "egress", node.SERVER_IDENTITY, TCP, 80, verdict="deny", cookie=77)
    result = send(node, build.tcp(node.web, node.server, 40000, 80))
    assert (result.audited, result.events[0].cookie) == (DENY_RULE, 77)
    assert node.maps.policy.get(key).packets == 1


def test_what_is_allowed_is_not_reported(node, build):
    node.enforce(web="both audit")
    node.policy(70, "egress", node.SERVER_IDENTITY, TCP, 80)
    assert send(node, build.tcp(node.web, node.server, 40000, 80)).events == ()


def test_reports_are_counted_apart_from_drops(node, build):
    def counted():
        return [node.maps.metrics.get(row).packets for row in (METRIC_AUDITED, METRIC_FORWARDED, NO_RULE)]

    before = counted()
    node.enforce(web="egress audit")
    send(node, build.tcp(node.web, node.server, 40000, 80))
    send(node, build.tcp(node.web, node.server, 40000, 80, build.ACK))
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 2, 0]


@pytest.mark.parametrize(
    ("web", "db", "passes", "whose"),
    [
        ("egress audit", "", True, 7),
        ("", "ingress audit", True, 8),
        ("egress audit", "ingress audit", True, 7),
        ("egress audit", "ingress", False, 8),
        ("egress", "ingress audit", False, 7),
    ],
)
def test_each_end_answers_for_its_own_policy(node, build, web, db, passes, whose):
    node.enforce(web=web, db=db)
    result = send(node, build.tcp(node.web, node.db, 40000, 80))
    assert (result.passed, len(result.events), result.events[0].endpoint_id) == (passes, 1, whose)
    assert result.events[0].policy_id == whose * 10
    assert result.events[0].direction == (EGRESS if whose == node.WEB else INGRESS)
    assert result.events[0].verdict == (4 if passes else 2)


def test_the_side_that_allows_does_not_take_the_place_of_the_audited_one(node, build):
    node.enforce(web="egress audit", db="ingress")
    node.policy(80, "ingress", node.WEB_IDENTITY, TCP, 80, cookie=5)
    result = send(node, build.tcp(node.web, node.db, 40000, 80))
    assert (result.audited, result.events[0].endpoint_id, result.events[0].cookie) == (NO_RULE, node.WEB, 0)


def test_from_outside_it_is_the_ingress_policy(node, build):
    node.enforce(web="ingress audit")
    result = arrive(node, build.tcp(node.stranger6, node.web6, 40000, 80))
    assert (result.audited, result.events[0].direction) == (NO_RULE, INGRESS)
    again = node.run("to_endpoint", build.tcp(node.stranger6, node.web6, 40000, 80), ingress_ifindex=99)
    assert (again.passed, again.events) == (True, ())


def test_from_an_interface_that_nothing_is_attached_to_it_is_too(node, build):
    node.enforce(web="ingress audit")
    packet = build.udp(node.stranger, node.web, 40000, 80)
    assert node.run("to_endpoint", packet, ingress_ifindex=99).audited == NO_RULE
    assert node.run("to_endpoint", packet, ingress_ifindex=99).events == ()


def test_pings_are_reported_once(node, build):
    node.enforce(web="egress audit")
    ping = build.icmp(node.web, node.server, 8, 7)
    result = send(node, ping)
    assert (result.audited, result.events[0].protocol, result.events[0].destination_port) == (NO_RULE, ICMP, 8)
    assert send(node, ping).events == ()
    assert arrive(node, build.icmp(node.server, node.web, 0, 7)).events == ()


@pytest.mark.parametrize("protocol", [TCP, GRE])
def test_what_policy_cannot_name_passes_too(node, build, protocol):
    node.enforce(web="egress audit")
    fragment = 100 if protocol == TCP else 0
    packet = build.ip(node.web, node.server, protocol, bytes(16), fragment=fragment)
    assert send(node, packet).audited == (FRAGMENT if fragment else UNKNOWN_L4)


def test_a_redirect_is_none_of_it(node, build):
    node.enforce(web="egress audit")
    node.policy(70, "egress", 0, TCP, 80, verdict="http")
    result = send(node, build.tcp(node.web, node.server, 40000, 80))
    assert (result.passed, result.mark, result.events) == (True, TO_PROXY, ())


def test_what_one_side_would_deny_still_goes_through_the_proxy_of_the_other(node, build):
    node.enforce(web="egress audit", db="ingress")
    node.policy(80, "ingress", 0, TCP, 80, verdict="http")
    result = send(node, build.tcp(node.web, node.db, 40000, 80))
    assert (result.audited, result.mark, result.events[0].endpoint_id) == (NO_RULE, TO_PROXY, node.WEB)


def test_two_different_proxies_stay_impossible(node, build):
    node.enforce(web="egress audit", db="ingress audit")
    node.policy(70, "egress", 0, TCP, 80, verdict="http")
    node.policy(80, "ingress", 0, TCP, 80, verdict="dns")
    assert send(node, build.tcp(node.web, node.db, 40000, 80)).reason == REDIRECT_IMPOSSIBLE


def test_what_is_no_matter_of_policy_stays_dropped(node, build):
    node.enforce(web="both audit", db="both audit")
    assert send(node, build.tcp(node.stranger, node.server, 40000, 80)).reason == INVALID_SOURCE
    assert arrive(node, build.tcp(node.db, node.web, 40000, 80)).reason == INVALID_SOURCE
    forged = build.tcp(node.stranger, node.web, 40000, 80)
    assert node.run("to_endpoint", forged, mark=FORGED, ingress_ifindex=99).reason == FORGED_MARK
    node.maps.endpoints.delete(node.DB)
    assert send(node, build.tcp(node.web, node.db, 40000, 80)).reason == UNKNOWN_ENDPOINT


def test_a_flow_that_was_denied_may_go_on_once_the_endpoint_is_audited(node, build):
    node.policy(70, "egress", 0)
    node.enforce(web="egress")
    packet = build.tcp(node.web, node.server, 40000, 80, build.ACK)
    assert send(node, packet).events == ()
    node.maps.policy.delete(PolicyKey(70, 0, EGRESS))
    node.revision(2)
    assert send(node, packet).reason == NO_RULE
    node.enforce(web="egress audit")
    node.revision(3)
    assert send(node, packet).audited == NO_RULE
    assert send(node, packet).events == ()


def test_and_ends_when_it_no_longer_is(node, build):
    node.enforce(web="egress audit")
    send(node, build.tcp(node.web, node.server, 40000, 80))
    node.enforce(web="egress")
    node.revision(2)
    assert send(node, build.tcp(node.web, node.server, 40000, 80, build.ACK)).reason == NO_RULE
    assert not arrive(node, build.tcp(node.server, node.web, 80, 40000, build.ACK)).passed


class TestMetHalfWay:
    """Which side began is not known: connections from before l7gate was there, or that its table had no room for."""

    def test_it_is_reported_once_although_egress_is_enforced(self, node, build):
        node.enforce(web="both audit")
        packet = build.tcp(node.stranger, node.web, 40000, 80, build.ACK)
        assert arrive(node, packet).audited == NO_RULE
        assert arrive(node, packet).events == ()
        assert entry(node, node.stranger, node.web, 40000, 80).flags & CONNTRACK_GUESSED

    @pytest.mark.parametrize("first", ["from_uplink", "from_endpoint"])
    def test_the_guess_is_forgotten_once_the_endpoint_is_no_longer_audited(self, node, build, first):
        node.policy(70, "ingress", 0)  # so that only the workload's own egress is in question
        node.enforce(web="both audit")
        outside = build.tcp(node.stranger, node.web, 40000, 80, build.ACK)
        inside = build.tcp(node.web, node.stranger, 80, 40000, build.ACK)
        assert arrive(node, outside).passed
        assert send(node, inside).events == ()
        node.enforce(web="both")
        node.revision(2)
        if first == "from_uplink":
            assert arrive(node, outside).passed
        else:
            assert not send(node, inside).passed
        assert entry(node, node.stranger, node.web, 40000, 80) is None
        assert send(node, inside).reason == NO_RULE
        assert arrive(node, outside).passed

    def test_one_that_is_seen_from_its_client_is_reported_once_too(self, node, build):
        node.enforce(web="egress audit")
        packet = build.tcp(node.web, node.stranger, 40000, 80, build.ACK)
        assert send(node, packet).audited == NO_RULE
        assert send(node, packet).events == ()
