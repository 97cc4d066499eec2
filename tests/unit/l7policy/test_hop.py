# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.hop: who has a say. What they say is tested with l7policy.explain."""

from l7policy import documents, question
from l7policy.cluster import Cluster
from l7policy.hop import answer, hops, passes
from l7policy.policydoc import Source
from l7policy.question import HttpRequest
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


def ask(source: str, destination: str, port: str, http: HttpRequest | None = None) -> question.Question:
    sides = question.side(source, Cluster()), question.side(destination, Cluster())
    return question.ask(*sides, port, http=http)


def test_each_end_that_is_a_workload_has_a_say() -> None:
    both = hops(POLICIES, ask("app=web", "app=db", "80"))
    assert [hop.direction for hop in both] == [Direction.EGRESS, Direction.INGRESS]
    assert both[0].policy.enforce_egress
    assert not both[1].policy.enforce_ingress
    assert [hop.direction for hop in hops(POLICIES, ask("reserved:host", "app=web", "80"))] == [Direction.INGRESS]
    assert hops(POLICIES, ask("192.0.2.1", "reserved:host", "80")) == ()


def test_a_request_that_the_proxy_would_not_read_meets_no_rule() -> None:
    asked = ask("app=web", "192.0.2.1", "80", HttpRequest("GET", "//", malformed="empty path segment"))
    reply = answer(hops(POLICIES, asked)[0], asked, Protocol.TCP)
    assert (reply.allowed, reply.reason, reply.response) == (False, Reason.HTTP_MALFORMED, 400)


def test_every_protocol_must_pass() -> None:
    for port, expected in (("53/UDP", True), ("53/TCP", False), ("53/ANY", False)):
        asked = ask("app=web", "192.0.2.1", port)
        assert passes(hops(POLICIES, asked)[0], asked) is expected
