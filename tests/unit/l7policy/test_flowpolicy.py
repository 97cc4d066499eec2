# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, field, replace

import pytest

from l7policy.flowpolicy import FlowPolicy, L7Decision, Resolution, Side, Stage, closed
from l7policy.headers import Edit
from l7policy.http import HttpRules
from l7policy.ids import HOST
from l7policy.judgement import PolicyVerdict
from l7policy.model import FqdnPeer, HeaderMatch, HttpRule, Mismatch
from l7policy.names import NameSet
from l7policy.verdict import Direction, Reason

EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS
CLIENT = Side("192.0.2.1", 1, 300, 10, frozenset({"k8s:app=client"}))
SERVER = Side("203.0.113.80", 0, 2, 0, frozenset({"reserved:world"}))


@dataclass
class CountingResolver:
    """Gives what it was told to, and counts how often it was asked."""

    revision: int = 1
    next: list[Resolution] = field(default_factory=list)
    renewed: int = 0

    def revision_in_force(self) -> int:
        return self.revision

    def renew(self, old: Resolution, protocol: int, port: int) -> Resolution:
        assert (protocol, port) == (6, 80)
        self.renewed += 1
        return self.next.pop(0)


def stage(
    verdict: PolicyVerdict,
    direction: Direction = EGRESS,
    http: HttpRules | None = None,
    names: NameSet | None = None,
    reason: Reason = Reason.POLICY_DENIED,
) -> Stage:
    return Stage(
        verdict,
        http,
        names,
        L7Decision(True, Reason.NONE, "rule", ("p",), direction, 1),
        L7Decision(False, reason, "rule", ("p",), direction, 1),
    )


ALLOW = stage(PolicyVerdict.ALLOW)
DENY = stage(PolicyVerdict.DENY)
DENY_INGRESS = stage(PolicyVerdict.DENY, INGRESS)
HTTP = stage(PolicyVerdict.REDIRECT, http=HttpRules([HttpRule(path="/a")]), reason=Reason.HTTP_DENIED)
DNS = stage(PolicyVerdict.REDIRECT, names=NameSet([FqdnPeer(match_name="a.example.com.")]), reason=Reason.DNS_DENIED)


def resolution(*stages: Stage, revision: int = 1, settled: bool = True) -> Resolution:
    return Resolution(revision, settled, CLIENT, SERVER, stages)


def flow(*stages: Stage) -> FlowPolicy:
    return FlowPolicy(CountingResolver(), resolution(*stages), 6, 80)


@pytest.mark.parametrize(
    ("stages", "connection", "request_a", "request_b", "name_a", "name_b"),
    [
        ((), True, True, True, True, True),
        ((ALLOW,), True, True, True, True, True),
        ((DENY,), False, False, False, False, False),
        ((ALLOW, DENY_INGRESS), False, False, False, False, False),
        ((HTTP, DENY_INGRESS), False, False, False, False, False),
        ((HTTP,), True, True, False, False, False),
        ((ALLOW, HTTP), True, True, False, False, False),
        ((DNS,), True, False, False, True, False),
    ],
    ids=["no policy", "allow", "deny", "denied by the other side", "the same with http", "http", "http second", "dns"],
)
def test_what_passes(
    stages: tuple[Stage, ...], connection: bool, request_a: bool, request_b: bool, name_a: bool, name_b: bool
) -> None:
    policy = flow(*stages)
    assert policy.admitted().allowed == connection
    assert policy.http(b"GET", b"/a", b"", ()).allowed == request_a
    assert policy.http(b"GET", b"/b", b"", ()).allowed == request_b
    assert policy.dns("a.example.com.").allowed == name_a
    assert policy.dns("b.example.com.").allowed == name_b


def test_a_refusal_names_the_side_that_refuses() -> None:
    assert flow(HTTP, DENY_INGRESS).http(b"GET", b"/a", b"", ()).direction == INGRESS
    assert flow(HTTP, DENY_INGRESS).http(b"GET", b"/b", b"", ()).direction == EGRESS


def test_a_flow_of_the_other_proxy_says_that_policy_changed() -> None:
    decision = flow(DNS).http(b"GET", b"/a", b"", ())
    assert (decision.reason, decision.rule, decision.policies) == (Reason.POLICY_CHANGED, "rule", ("p",))
    assert flow(HTTP).dns("a.example.com.").reason == Reason.POLICY_CHANGED


def test_names_limited_on_ingress_limit_nothing() -> None:
    limited = stage(PolicyVerdict.REDIRECT, INGRESS, names=NameSet([]))
    assert flow(limited).dns("a.example.com.").allowed


def test_only_rules_about_requests_require_http() -> None:
    assert flow(HTTP).http_required()
    assert not flow(ALLOW).http_required()
    assert not flow(DNS).http_required()


def test_a_closed_stage_lets_nothing_pass() -> None:
    policy = flow(closed(EGRESS, 1, ("p",)))
    for decision in (policy.admitted(), policy.http(b"GET", b"/a", b"", ()), policy.dns("a.example.com.")):
        assert decision == L7Decision(False, Reason.POLICY_CHANGED, "", ("p",), EGRESS, 1)


def test_a_flow_is_renewed_when_the_revision_changes_and_only_then() -> None:
    resolver = CountingResolver()
    policy = FlowPolicy(resolver, resolution(ALLOW), 6, 80)
    assert policy.http(b"GET", b"/b", b"", ()).allowed
    assert resolver.renewed == 0
    resolver.revision = 2
    resolver.next = [resolution(HTTP, revision=2)]
    assert not policy.http(b"GET", b"/b", b"", ()).allowed
    assert not policy.http(b"GET", b"/b", b"", ()).allowed
    assert resolver.renewed == 1
    assert policy.revision == 2


def test_a_flow_that_is_not_settled_is_renewed_at_every_request_until_it_is() -> None:
    resolver = CountingResolver(next=[resolution(DENY, settled=False), resolution(ALLOW)])
    policy = FlowPolicy(resolver, resolution(DENY, settled=False), 6, 80)
    assert policy.revision == 1
    assert not policy.admitted().allowed
    assert policy.admitted().allowed
    assert policy.admitted().allowed
    assert resolver.renewed == 2


def edits(direction: Direction, *matches: HeaderMatch) -> Stage:
    rules = HttpRules([HttpRule(headers=matches)])
    return stage(PolicyVerdict.REDIRECT, direction, http=rules, reason=Reason.HTTP_DENIED)


def test_the_second_policy_judges_what_the_first_one_leaves() -> None:
    first = edits(EGRESS, HeaderMatch("X-A", "1", None, Mismatch.REPLACE))
    wants = edits(INGRESS, HeaderMatch("X-A", "1"))
    assert not flow(wants).http(b"GET", b"/", b"", [(b"x-a", b"2")]).allowed
    decision = flow(first, wants).http(b"GET", b"/", b"", [(b"x-a", b"2")])
    assert decision.allowed
    assert decision.edits == (Edit(Mismatch.REPLACE, "X-A", b"1"),)
    assert (decision.missing, decision.rejected) == (("X-A: 1",), ("X-A: 2",))


def test_the_edits_of_both_policies_are_made() -> None:
    decision = flow(
        edits(EGRESS, HeaderMatch("X-A", "1", None, Mismatch.ADD)),
        edits(INGRESS, HeaderMatch("X-B", "2", None, Mismatch.DELETE)),
    ).http(b"GET", b"/", b"", [(b"x-b", b"3")])
    assert decision.edits == (Edit(Mismatch.ADD, "X-A", b"1"), Edit(Mismatch.DELETE, "X-B"))


def test_a_request_that_is_as_it_should_be_costs_no_new_decision() -> None:
    judged = edits(EGRESS, HeaderMatch("X-A", "1", None, Mismatch.ADD))
    assert flow(judged).http(b"GET", b"/", b"", [(b"x-a", b"1")]) is judged.passed


def test_a_pinned_flow_refuses_another_host_and_audits_it_where_all_is_audited() -> None:
    pinned = replace(HTTP, pins=NameSet([FqdnPeer(match_name="a.example.com.")]))
    assert flow(pinned).http(b"GET", b"/a", b"A.example.com:80", ()).allowed
    refused = flow(pinned).http(b"GET", b"/a", b"b.example.com", ())
    assert (refused.allowed, refused.reason, refused.rule) == (False, Reason.HOST_MISMATCH, "rule")
    audited = replace(pinned, refused=replace(pinned.refused, allowed=True, audited=True))
    passed = flow(audited).http(b"GET", b"/a", b"b.example.com", ())
    assert (passed.allowed, passed.audited, passed.reason) == (True, True, Reason.HOST_MISMATCH)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (SERVER, "192.0.2.1"),
        (replace(SERVER, address="203.0.113.1", identity=HOST), "0.0.0.0"),
        (replace(SERVER, address="2001:db8::1", identity=HOST), "::"),
    ],
)
def test_the_node_itself_is_called_from_its_own_address(server: Side, expected: str) -> None:
    policy = FlowPolicy(CountingResolver(), Resolution(1, True, CLIENT, server, ()), 6, 80)
    assert policy.upstream_address == expected
