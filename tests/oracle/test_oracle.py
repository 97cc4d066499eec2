# SPDX-License-Identifier: Apache-2.0
"""The engine and the oracle agree: on generated clusters, policies and flows, from the YAML to the kernel's entries.

For each flow three answers are compared: the oracle's, `judge`'s, and what the kernel finds in the entries that the
incremental resolver made. Where a proxy is asked, so are the proxies' matchers, and for flows of this node the whole of
what a proxy asks: both ends' policies, edits of headers, audit. How often each part of the vocabulary decided is
counted, and none may be missing. L7GATE_ORACLE_EXAMPLES sets how many clusters (default: what some seconds allow; a
night of it: 100000).
"""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from generated.documents import LIMITS, SETS
from generated.world import ASKED_SERVER_NAMES, ENDPOINTS, QUERIES, REQUESTS, SECRETS, Flow, flows, parties
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain.evaluator import Answer, Oracle
from plain.requests import Outcome, Request, forwarded, outcome

from l7policy import names
from l7policy.headers import edited
from l7policy.http import HttpRules
from l7policy.ids import EndpointId
from l7policy.judgement import Judgement, PolicyVerdict, judge
from l7policy.model import Secret
from l7policy.sni import server_names
from l7policy.verdict import Direction, Protocol, ProxyKind

EXAMPLES = int(os.environ.get("L7GATE_ORACLE_EXAMPLES", "50"))
EXPECTED = {
    "allow": (PolicyVerdict.ALLOW, ProxyKind.NONE),
    "deny": (PolicyVerdict.DENY, ProxyKind.NONE),
    "http": (PolicyVerdict.REDIRECT, ProxyKind.HTTP),
    "serverNames": (PolicyVerdict.REDIRECT, ProxyKind.TLS),
    "dns": (PolicyVerdict.REDIRECT, ProxyKind.DNS),
}
ENOUGH = 10
ROUNDS = 12
VOCABULARY = {
    *("deny", "default deny", "nobody denies by default", "the node itself", "voided"),
    *("tier 0", "tier 1", "tier 2", "tier 0 passed", "tier 2 passed"),
    *("http", "serverNames", "dns", "icmps", "named port", "NetworkPolicy", "host policy"),
    *("any peer", "Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Services", "FQDNs"),
    *("namespaces", "pods", "networks", "nodes", "domainNames"),
    *("mode always", "mode never", "audited", "both ends"),
    *(f"{kind} {what}" for kind in ("http", "serverNames", "dns") for what in ("passes", "refused")),
    *("flow refused", "flow audited", "request refused", "request audited", "request passes"),
    *("ADD", "DELETE", "REPLACE", "LOG", "secret"),
}
"""What must have decided at least `ENOUGH` flows or requests."""


def secret_of(secret: Secret) -> str | None:
    return SECRETS.get((secret.namespace, secret.name))


def sent(request: Request) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]:
    headers = [(name.encode(), value.encode()) for name, value in request.headers]
    return request.method.encode(), request.path.encode(), request.host.encode(), headers


class Comparison:
    """One cluster, both ways."""

    def __init__(
        self, engine: Callable[..., Any], found: list[Any], mode: str, audited: int, met: Counter[str]
    ) -> None:
        self.parties = parties(audited)
        self.mode = mode
        self.oracle = Oracle(found, mode)
        self.engine = engine(found, self.parties, mode)
        self.met = met

    def flow(self, flow: Flow) -> None:
        """The flow as one end's policy sees it."""
        direction, protocol = Direction[flow.direction.upper()], Protocol[flow.protocol]
        policy = self.engine.resolver.policy_of(EndpointId(flow.own + 1))
        answer = self._asked(flow)
        judged = judge(policy, direction, self.engine.labels[flow.peer], protocol, flow.port)
        assert (judged.verdict, judged.proxy) == EXPECTED[answer.verdict], "judge"
        if policy.enforces(direction):
            assert judged.audit == answer.audit
            kernel = self.engine.kernel(flow.own, direction, flow.peer, protocol, flow.port)
            assert kernel == EXPECTED[answer.verdict], "kernel"
        self.met.update(answer.features)
        self.met["audited"] += answer.audit
        self.met[f"mode {self.mode}"] += 1
        self._limits(answer, judged)

    def _asked(self, flow: Flow) -> Answer:
        own, peer = self.parties[flow.own], self.parties[flow.peer]
        return self.oracle.judge(own, flow.direction, peer, flow.protocol, flow.port)

    def _limits(self, answer: Answer, judged: Judgement) -> None:
        """The proxies' matchers against each request, name and server name."""
        match answer.verdict:
            case "http":
                rules = HttpRules(judged.http or (), secret_of)
                for request in REQUESTS:
                    wanted = outcome(list(answer.limits), request, SECRETS)
                    self._counted("http", wanted.passes)
                    assert rules.match(*sent(request)) == wanted.passes, request
                    review = rules.review(*sent(request))
                    edits = frozenset((str(edit.action), edit.name, edit.value.decode()) for edit in review.edits)
                    found = Outcome(review.allowed, edits, frozenset(review.missing), frozenset(review.rejected))
                    assert found == wanted, request
                    self._count_edits(wanted)
            case "dns":
                for name in QUERIES:
                    passes = answer.name_passes(name)
                    self._counted("dns", passes)
                    assert names.name_set(judged.dns or ()).matches(names.canonical(name)) == passes, name
            case "serverNames":
                for name in ASKED_SERVER_NAMES:
                    passes = answer.server_name_passes(name)
                    self._counted("serverNames", passes)
                    assert server_names(judged.server_names or ()).matches(name) == passes, name

    def _counted(self, kind: str, passes: bool) -> None:
        self.met[f"{kind} {'passes' if passes else 'refused'}"] += 1

    def _count_edits(self, wanted: Outcome) -> None:
        self.met.update(action for action, _, _ in wanted.edits)
        self.met["LOG"] += bool(wanted.missing) and not wanted.edits
        self.met["secret"] += any("[redacted]" in text for text in wanted.missing | wanted.rejected)

    def both_ends(self, flow: Flow) -> None:
        """The flow as a proxy sees it: by the policies of both ends."""
        direction = {"egress": "ingress", "ingress": "egress"}[flow.direction]
        ends = [self._asked(flow)]
        if flow.peer < ENDPOINTS:
            other = self._asked(Flow(flow.peer, direction, flow.own, flow.protocol, flow.port))
            ends = [ends[0], other] if flow.direction == "egress" else [other, ends[0]]
            self.met["both ends"] += 1
        client, server = (flow.own, flow.peer) if flow.direction == "egress" else (flow.peer, flow.own)
        asked = self.engine.enforcement.flow(str(client), str(server), Protocol[flow.protocol], flow.port)
        refused = next((end for end in ends if end.verdict == "deny" and not end.audit), None)
        audited = any(end.verdict == "deny" for end in ends)
        admitted = asked.admitted()
        assert (admitted.allowed, admitted.audited) == (refused is None, audited and refused is None), "admitted"
        self.met["flow refused"] += refused is not None
        self.met["flow audited"] += admitted.audited
        if {end.verdict for end in ends} & {"http"} and not {end.verdict for end in ends} & {"dns", "serverNames"}:
            for request in REQUESTS:
                self._request(ends, asked, request)

    def _request(self, ends: list[Answer], asked: Any, request: Request) -> None:
        """The second end judges the request as the first one leaves it."""
        decision = asked.http(*sent(request))
        allowed, audited, as_sent = True, False, request
        for end in ends:
            passes = end.verdict == "allow"
            if end.verdict == "http":
                found = outcome(list(end.limits), as_sent, SECRETS)
                passes = found.passes
                left = forwarded(as_sent, found)
                if left is None:
                    return  # two rules want to set one header, and nobody says which comes last
                headers = tuple((name, value) for name, values in left.items() for value in values)
                as_sent = Request(request.method, request.path, request.host, headers)
            if not passes and not end.audit:
                allowed = False
                break
            audited |= not passes
        assert (decision.allowed, decision.audited) == (allowed, allowed and audited), request
        self.met[f"request {'refused' if not allowed else 'audited' if audited else 'passes'}"] += 1
        if allowed:
            result: dict[str, list[str]] = {}
            for name, value in edited(sent(request)[3], decision.edits):
                result.setdefault(name.decode().lower(), []).append(value.decode())
            wanted: dict[str, list[str]] = {}
            for name, value in as_sent.headers:
                wanted.setdefault(name.lower(), []).append(value)
            assert result == wanted, request


@pytest.mark.timeout(0 if "L7GATE_ORACLE_EXAMPLES" in os.environ else 240)
def test_the_engine_and_the_oracle_agree_on_all_of_the_vocabulary(engine: Callable[..., Any]) -> None:
    met: Counter[str] = Counter()

    @given(
        SETS | SETS | LIMITS,
        st.sampled_from(["default", "default", "default", "default", "always", "never"]),
        st.integers(0, 15),
        st.integers(0),
    )
    @settings(
        max_examples=EXAMPLES,
        report_multiple_bugs=False,
        deadline=None,
        derandomize=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    def agree(found: list[Any], mode: str, audited: int, seed: int) -> None:
        comparison = Comparison(engine, found, mode, audited, met)
        for flow in flows(seed):
            try:
                comparison.flow(flow)
                comparison.both_ends(flow)
            except AssertionError as differing:
                differing.add_note(f"{flow}: {comparison.parties[flow.own]} {comparison.parties[flow.peer]}")
                raise

    # Hypothesis likes to dwell on what it has found; so more clusters, until all has been met often enough.
    for _ in range(ROUNDS):
        agree()
        rare = {feature: met[feature] for feature in VOCABULARY if met[feature] < ENOUGH}
        if not rare:
            break
    assert rare == {}, sorted(met.items())
