# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.hop: who has a say. What they say is tested with l7policy.explain."""

from typing import Any

import pytest

from l7policy import documents, question
from l7policy.cluster import Cluster
from l7policy.hop import Hop, Setting, answer, hops, passes
from l7policy.model import EndpointPolicy, Origin, Rule
from l7policy.policydoc import Source
from l7policy.question import HttpRequest
from l7policy.resolve import Mode
from l7policy.verdict import Direction, Protocol, Reason

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{path: "/.*"}]}
    - toPorts:
        - ports: [{port: "53", protocol: UDP}]
"""
POLICIES = documents.load([Source("p.yaml", POLICY)])


def ask(source: str, destination: str, port: str, **parts: Any) -> question.Question:
    sides = question.side(source, Cluster()), question.side(destination, Cluster())
    return question.ask(*sides, port, **parts)


def test_each_end_that_is_a_workload_has_a_say() -> None:
    both = hops(POLICIES, ask("app=web", "app=db", "80"))
    assert [hop.direction for hop in both] == [Direction.EGRESS, Direction.INGRESS]
    assert both[0].policy.enforce_egress
    assert not both[1].policy.enforce_ingress
    node, web = hops(POLICIES, ask("reserved:host", "app=web", "80"))
    assert not node.policy.enforce_egress
    assert web.direction == Direction.INGRESS
    assert [hop.direction for hop in hops(POLICIES, ask("192.0.2.1", "app=web", "80"))] == [Direction.INGRESS]
    assert hops(POLICIES, ask("192.0.2.1", "reserved:remote-node", "80")) == ()


def test_a_request_that_the_proxy_would_not_read_meets_no_rule() -> None:
    asked = ask("app=web", "192.0.2.1", "80", http=HttpRequest("GET", "//", malformed="empty path segment"))
    reply = answer(hops(POLICIES, asked)[0], asked, Protocol.TCP)
    assert (reply.allowed, reply.reason, reply.response) == (False, Reason.HTTP_MALFORMED, 400)


@pytest.mark.parametrize(
    ("port", "parts", "expected"),
    [
        ("443", {"sni": "a.example"}, Reason.NONE),
        ("443", {"sni": "b.example"}, Reason.SNI_DENIED),
        ("443", {"sni": ""}, Reason.SNI_DENIED),
        ("443", {"http": HttpRequest("GET", "/")}, Reason.TLS_MALFORMED),
        ("443", {"dns": "a.example"}, Reason.TLS_MALFORMED),
        ("443", {}, Reason.NONE),
    ],
)
def test_a_limit_to_server_names_takes_nothing_but_tls(port: str, parts: dict[str, Any], expected: Reason) -> None:
    rule = Rule(Direction.EGRESS, Origin("p", "egress[0]"), server_names=("a.example",))
    hop = Hop(Direction.EGRESS, EndpointPolicy((rule,), enforce_egress=True), frozenset({"reserved:world"}))
    reply = answer(hop, ask("app=web", "192.0.2.1", port, **parts), Protocol.TCP)
    assert (reply.reason, reply.response) == (expected, None)


def test_what_is_only_recorded_passes_at_every_layer() -> None:
    setting = Setting(audit=True)
    for port, http, reason in (
        ("80", HttpRequest("GET", "/a"), Reason.NONE),
        ("80", HttpRequest("GET", "*"), Reason.HTTP_DENIED),
        ("81", None, Reason.POLICY_DENIED),
    ):
        asked = ask("app=web", "192.0.2.1", port, http=http)
        reply = answer(hops(POLICIES, asked, setting)[0], asked, Protocol.TCP)
        assert (reply.reason, reply.audited, reply.packets_pass) == (reason, reason != Reason.NONE, True)


def test_what_cannot_be_read_is_refused_in_audit_mode_too() -> None:
    asked = ask("app=web", "192.0.2.1", "80", http=HttpRequest("GET", "/a", malformed="//"))
    reply = answer(hops(POLICIES, asked, Setting(audit=True))[0], asked, Protocol.TCP)
    assert (reply.reason, reply.audited) == (Reason.HTTP_MALFORMED, False)


def test_a_pinned_host_is_a_name_by_which_the_destination_was_allowed() -> None:
    text = POLICY.replace(
        '    - toPorts:\n        - ports: [{port: "80"',
        '    - toFQDNs: [{matchName: a.example}]\n      toPorts:\n        - ports: [{port: "80"',
        1,
    )
    policies = documents.load([Source("p.yaml", text)])
    for host, pin_names, reason in (
        ("b.example", False, Reason.NONE),
        ("b.example", True, Reason.HOST_MISMATCH),
        ("a.example:80", True, Reason.NONE),
    ):
        asked = ask("app=web", "fqdn:a.example", "80", http=HttpRequest("GET", "/a", host))
        reply = answer(hops(policies, asked, Setting(pin_names=pin_names))[0], asked, Protocol.TCP)
        assert (reply.reason, reply.response) == (reason, 403 if reason else None)


def test_every_mode_is_the_engines() -> None:
    asked = ask("app=other", "app=db", "80")
    assert passes(hops(POLICIES, asked)[0], asked)
    assert not passes(hops(POLICIES, asked, Setting(mode=Mode.ALWAYS))[0], asked)
    asked = ask("app=web", "192.0.2.1", "81")
    assert passes(hops(POLICIES, asked, Setting(mode=Mode.NEVER))[0], asked)


def test_every_protocol_must_pass() -> None:
    for port, expected in (("53/UDP", True), ("53/TCP", False), ("53/ANY", False)):
        asked = ask("app=web", "192.0.2.1", port)
        assert passes(hops(POLICIES, asked)[0], asked) is expected
