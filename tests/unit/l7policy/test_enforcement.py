# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from l7policy.enforcement import EndpointRow, Enforcement, FlowPolicy
from l7policy.http import PatternError
from l7policy.ids import FIRST_FQDN_IDENTITY, WORLD, EndpointId, IdentityId, PolicyId, Revision
from l7policy.model import (
    Action,
    EndpointPolicy,
    EntityPeer,
    FqdnPeer,
    HeaderMatch,
    HttpRule,
    LabelPeer,
    Operator,
    Origin,
    Port,
    Requirement,
    Rule,
    Snapshot,
)
from l7policy.names import hash64
from l7policy.verdict import Direction, Protocol, Reason

CLIENT, SERVER, OUTSIDE, RESOLVER = "192.0.2.1", "192.0.2.2", "203.0.113.80", "203.0.113.53"
CLIENT_ID, SERVER_ID = IdentityId(300), IdentityId(301)
NAMED = IdentityId(FIRST_FQDN_IDENTITY + 1)
EXAMPLE = FqdnPeer(match_pattern="*.example.com.")
TCP_80 = (Port(Protocol.TCP, 80, 80),)
UDP_53 = (Port(Protocol.UDP, 53, 53),)
BOTH = 3

IDENTITIES = {
    IdentityId(1): ("reserved:host",),
    WORLD: ("reserved:world",),
    CLIENT_ID: ("k8s:app=client",),
    SERVER_ID: ("k8s:app=server",),
}
"""As in the kernel's tables, what every snapshot of these tests knows."""


@dataclass
class MemoryTables:
    """The kernel's tables as dictionaries."""

    number: int = 1
    endpoints: dict[str, EndpointRow] = field(default_factory=dict)
    identities: dict[str, int] = field(default_factory=dict)
    established: dict[str, int] = field(default_factory=dict)
    names: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    processes: dict[tuple[str, int, str, int, int], EndpointRow] = field(default_factory=dict)
    lookups: int = 0

    def revision(self) -> int:
        return self.number

    def endpoint(self, address: str) -> EndpointRow | None:
        self.lookups += 1
        return self.endpoints.get(address)

    def process(self, client: str, client_port: int, destination: str, port: int, protocol: int) -> EndpointRow | None:
        return self.processes.get((client, client_port, destination, port, protocol))

    def identity(self, address: str, established: bool) -> int:
        found = self.identities.get(address, WORLD)
        return self.established.get(address, found) if established else found

    def fqdn_labels(self, identity: int) -> tuple[int, Sequence[int]] | None:
        return self.names.get(identity)


def http(name: str, *rules: HttpRule, direction: Direction = Direction.EGRESS) -> Rule:
    return Rule(direction, Origin(name, "http"), ports=TCP_80, http=rules)


def allow(name: str, *peers: LabelPeer | EntityPeer | FqdnPeer, direction: Direction = Direction.EGRESS) -> Rule:
    return Rule(direction, Origin(name, "allow"), peers=peers or None, ports=TCP_80)


def deny(name: str, direction: Direction = Direction.EGRESS) -> Rule:
    return Rule(direction, Origin(name, "deny"), action=Action.DENY)


def egress(*rules: Rule) -> EndpointPolicy:
    return EndpointPolicy(rules, enforce_egress=True, selected_by=("shop/client", "shop/base"))


def ingress(*rules: Rule) -> EndpointPolicy:
    return EndpointPolicy(rules, enforce_ingress=True, selected_by=("shop/server",))


def snapshot(
    revision: int, policies: dict[int, EndpointPolicy], selectors: tuple[FqdnPeer, ...] = (EXAMPLE,)
) -> Snapshot:
    return Snapshot(
        Revision(revision),
        {PolicyId(number): policy for number, policy in policies.items()},
        dict(IDENTITIES),
        {},
        selectors,
    )


class Node:
    """One process with its tables: the client has policy 10, the server, if it is a workload, policy 20."""

    def __init__(self, client: EndpointPolicy | None, server: EndpointPolicy | None = None) -> None:
        self.tables = MemoryTables()
        policies: dict[int, EndpointPolicy] = {}
        if client is not None:
            policies[10] = client
            self.tables.endpoints[CLIENT] = EndpointRow(EndpointId(1), PolicyId(10), CLIENT_ID, BOTH)
        if server is not None:
            policies[20] = server
            self.tables.endpoints[SERVER] = EndpointRow(EndpointId(2), PolicyId(20), SERVER_ID, BOTH)
        self.enforcement = Enforcement(self.tables)
        self.enforcement.prepare(snapshot(1, policies))
        assert self.enforcement.commit(1)

    def flow(self, client: str = CLIENT, server: str = OUTSIDE, protocol: int = 6, port: int = 80) -> FlowPolicy:
        flow = self.enforcement.flow(client, server, protocol, port)
        assert flow is not None
        return flow

    def move_client(self, policy_id: int, revision: int) -> None:
        row = self.tables.endpoints[CLIENT]
        self.tables.endpoints[CLIENT] = row._replace(policy_id=PolicyId(policy_id))
        self.tables.number = revision


def get(flow: FlowPolicy, path: bytes = b"/public") -> tuple[bool, Reason, str]:
    decision = flow.http(b"GET", path, b"example.com", ())
    return decision.allowed, decision.reason, decision.rule


PUBLIC = HttpRule(path="/public")


def test_a_request_is_allowed_or_denied_by_the_rules_that_cover_the_flow() -> None:
    flow = Node(egress(http("p", PUBLIC))).flow()
    assert get(flow) == (True, Reason.NONE, "p http")
    assert get(flow, b"/secret") == (False, Reason.HTTP_DENIED, "p http")
    decision = flow.http(b"GET", b"/secret", b"example.com", ())
    assert decision.policies == ("shop/client", "shop/base")
    assert decision.direction == Direction.EGRESS
    assert decision.endpoint == 1
    assert flow.http_required()


def test_both_sides_of_a_flow_are_known() -> None:
    flow = Node(egress(http("p", PUBLIC))).flow()
    assert (flow.source.endpoint, flow.source.identity, flow.source.policy_id) == (1, CLIENT_ID, 10)
    assert flow.source.labels == {"k8s:app=client"}
    assert (flow.destination.endpoint, flow.destination.identity, flow.destination.policy_id) == (0, WORLD, 0)
    assert flow.destination.labels == {"reserved:world"}
    assert flow.revision == 1


def test_a_flow_between_two_strangers_has_no_policy() -> None:
    assert Node(None).enforcement.flow(CLIENT, OUTSIDE, 6, 80) is None


def test_a_flow_that_is_denied_as_a_whole_denies_requests_with_the_same_reason() -> None:
    assert get(Node(egress()).flow()) == (False, Reason.POLICY_DENIED, "")
    assert get(Node(egress(http("p", PUBLIC), deny("d"))).flow()) == (False, Reason.POLICY_DENY, "d deny")
    assert not Node(egress()).flow().admitted().allowed


def test_a_flow_without_limits_allows_every_request() -> None:
    flow = Node(egress(allow("a"))).flow()
    assert get(flow, b"/any") == (True, Reason.NONE, "a allow")
    assert not flow.http_required()
    assert flow.admitted().allowed


def test_a_flow_that_nobody_enforces_is_allowed() -> None:
    flow = Node(EndpointPolicy()).flow()
    assert get(flow) == (True, Reason.NONE, "")
    assert flow.dns("example.com.").allowed
    assert flow.admitted().allowed


@pytest.mark.parametrize(
    ("path", "allowed", "direction"),
    [
        (b"/both", True, Direction.INGRESS),
        (b"/out", False, Direction.INGRESS),
        (b"/in", False, Direction.EGRESS),
        (b"/none", False, Direction.EGRESS),
    ],
)
def test_a_request_between_workloads_must_pass_both_policies(path: bytes, allowed: bool, direction: Direction) -> None:
    node = Node(
        egress(http("out", HttpRule(path="/both|/out", headers=(HeaderMatch("X-Token"),)))),
        ingress(http("in", HttpRule(path="/both|/in", headers=(HeaderMatch("X-Token"),)), direction=Direction.INGRESS)),
    )
    decision = node.flow(server=SERVER).http(b"GET", path, b"", iter([(b"x-token", b"1")]))
    assert (decision.allowed, decision.direction) == (allowed, direction)


def test_an_ingress_policy_judges_by_the_labels_of_the_client() -> None:
    from_client = LabelPeer((Requirement("k8s:app", Operator.IN, ("client",)),))
    node = Node(EndpointPolicy(), ingress(allow("in", from_client, direction=Direction.INGRESS)))
    assert get(node.flow(server=SERVER)) == (True, Reason.NONE, "in allow")
    assert get(node.flow(client=OUTSIDE, server=SERVER)) == (False, Reason.POLICY_DENIED, "")


def test_names_are_limited_by_the_policy_of_the_client() -> None:
    rule = Rule(Direction.EGRESS, Origin("n", "dns"), ports=UDP_53, dns=(EXAMPLE,))
    flow = Node(egress(rule)).flow(server=RESOLVER, protocol=17, port=53)
    assert flow.dns("www.EXAMPLE.com").allowed
    refused = flow.dns("www.example.org.")
    assert (refused.allowed, refused.reason, refused.rule) == (False, Reason.DNS_DENIED, "n dns")


def test_a_name_may_be_asked_for_freely_where_no_rule_limits_names() -> None:
    rule = Rule(Direction.EGRESS, Origin("n", "any"), ports=UDP_53)
    assert Node(egress(rule)).flow(server=RESOLVER, protocol=17, port=53).dns("a.example.org.").allowed


def test_a_name_server_whose_ingress_policy_denies_the_flow_is_not_asked() -> None:
    names = Rule(Direction.EGRESS, Origin("n", "dns"), ports=UDP_53, dns=(EXAMPLE,))
    flow = Node(egress(names), ingress()).flow(server=SERVER, protocol=17, port=53)
    decision = flow.dns("www.example.com.")
    assert (decision.allowed, decision.reason, decision.direction) == (False, Reason.POLICY_DENIED, Direction.INGRESS)


def test_a_flow_of_the_other_proxy_is_refused() -> None:
    names = Rule(Direction.EGRESS, Origin("n", "dns"), ports=TCP_80, dns=(EXAMPLE,))
    assert get(Node(egress(names)).flow()) == (False, Reason.POLICY_CHANGED, "n dns")
    assert Node(egress(http("p", PUBLIC))).flow().dns("www.example.com.").reason == Reason.POLICY_CHANGED


def test_a_learnt_address_has_the_labels_of_its_names_and_of_its_prefix() -> None:
    node = Node(egress(allow("fqdn", EXAMPLE)))
    assert get(node.flow()) == (False, Reason.POLICY_DENIED, "")
    node.tables.identities[OUTSIDE] = NAMED
    node.tables.names[NAMED] = (WORLD, (hash64("fqdn:*.example.com"), hash64("fqdn:gone.example.org")))
    assert node.enforcement.labels_of(NAMED) == {"reserved:world", "fqdn:*.example.com"}
    assert get(node.flow()) == (True, Reason.NONE, "fqdn allow")


def test_an_identity_that_nobody_knows_is_refused_until_somebody_does() -> None:
    node = Node(egress(allow("a")))
    node.tables.identities[OUTSIDE] = NAMED
    flow = node.flow()
    assert node.enforcement.labels_of(NAMED) is None
    assert flow.destination.labels == frozenset()
    assert get(flow) == (False, Reason.POLICY_CHANGED, "")
    assert flow.http(b"GET", b"/", b"", ()).policies == ("shop/client", "shop/base")
    node.tables.names[NAMED] = (WORLD, ())
    assert get(flow) == (True, Reason.NONE, "a allow")


def test_a_policy_that_no_snapshot_knows_is_refused_until_one_does() -> None:
    node = Node(egress(http("p", PUBLIC)))
    node.move_client(11, revision=2)
    flow = node.flow()
    assert get(flow) == (False, Reason.POLICY_CHANGED, "")
    assert flow.revision == 2
    node.enforcement.prepare(snapshot(2, {11: egress(allow("new"))}))
    assert get(flow) == (True, Reason.NONE, "new allow")


def test_a_process_without_a_snapshot_refuses_everything() -> None:
    tables = MemoryTables(endpoints={CLIENT: EndpointRow(EndpointId(1), PolicyId(10), CLIENT_ID, BOTH)})
    flow = Enforcement(tables).flow(CLIENT, OUTSIDE, 6, 80)
    assert flow is not None
    assert get(flow) == (False, Reason.POLICY_CHANGED, "")
    assert not flow.dns("example.com.").allowed
    assert not flow.admitted().allowed


def test_an_unknown_policy_has_no_say_in_a_direction_the_kernel_does_not_enforce() -> None:
    node = Node(None, ingress(allow("in", direction=Direction.INGRESS)))
    node.tables.endpoints[CLIENT] = EndpointRow(EndpointId(1), PolicyId(99), CLIENT_ID, 2)
    assert get(node.flow(server=SERVER)) == (True, Reason.NONE, "in allow")
    node.tables.endpoints[CLIENT] = EndpointRow(EndpointId(1), PolicyId(99), CLIENT_ID, 1)
    assert get(node.flow(server=SERVER)) == (False, Reason.POLICY_CHANGED, "")


def test_a_reload_reaches_a_flow_at_its_next_request() -> None:
    node = Node(egress(http("old", PUBLIC)))
    flow = node.flow()
    assert get(flow) == (True, Reason.NONE, "old http")
    node.enforcement.prepare(snapshot(2, {11: egress(http("new", HttpRule(path="/other")))}))
    assert get(flow) == (True, Reason.NONE, "old http")
    node.move_client(11, revision=2)
    assert get(flow) == (False, Reason.HTTP_DENIED, "new http")
    assert flow.revision == 2
    assert node.enforcement.commit(2)
    assert get(flow, b"/other") == (True, Reason.NONE, "new http")


def test_a_flow_is_resolved_once_per_revision() -> None:
    node = Node(egress(http("p", PUBLIC)))
    flow = node.flow()
    before = node.tables.lookups
    for _ in range(5):
        get(flow)
    assert node.tables.lookups == before
    node.tables.number = 2
    get(flow)
    after = node.tables.lookups
    assert after > before
    get(flow)
    assert node.tables.lookups == after


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node.tables.endpoints.pop(CLIENT),
        lambda node: node.tables.endpoints.update({CLIENT: EndpointRow(EndpointId(7), PolicyId(10), CLIENT_ID, BOTH)}),
    ],
    ids=["the workload went", "another workload has its address"],
)
def test_a_flow_whose_workload_is_gone_is_refused(change: Callable[[Node], None]) -> None:
    node = Node(egress(allow("a")))
    flow = node.flow()
    change(node)
    node.tables.number = 2
    assert get(flow) == (False, Reason.POLICY_CHANGED, "")
    assert flow.http(b"GET", b"/", b"", ()).endpoint == 1


def test_the_snapshot_before_the_one_in_force_can_still_be_judged_by() -> None:
    node = Node(egress(http("old", PUBLIC)))
    node.enforcement.prepare(snapshot(2, {11: egress()}))
    assert node.enforcement.commit(2)
    assert get(node.flow()) == (True, Reason.NONE, "old http")
    node.enforcement.prepare(snapshot(3, {12: egress()}))
    assert node.enforcement.commit(3)
    assert get(node.flow()) == (False, Reason.POLICY_CHANGED, "")


def test_an_aborted_snapshot_is_forgotten() -> None:
    node = Node(egress(http("old", PUBLIC)))
    node.enforcement.prepare(snapshot(2, {11: egress(allow("new"))}))
    node.enforcement.abort(1)
    node.enforcement.abort(2)
    assert not node.enforcement.commit(2)
    assert node.enforcement.revision == 1
    node.move_client(11, revision=2)
    assert get(node.flow()) == (False, Reason.POLICY_CHANGED, "")


def test_a_commit_is_true_only_for_the_revision_that_is_then_in_force() -> None:
    node = Node(egress())
    assert node.enforcement.commit(1)
    assert not node.enforcement.commit(5)
    node.enforcement.prepare(snapshot(2, {}))
    assert not node.enforcement.commit(3)
    assert node.enforcement.commit(2)
    assert node.enforcement.revision == 2


def test_an_expression_that_re2_refuses_fails_the_reload_and_not_a_request() -> None:
    node = Node(egress(http("old", PUBLIC)))
    with pytest.raises(PatternError):
        node.enforcement.prepare(snapshot(2, {11: egress(http("bad", HttpRule(path="(")))}))
    assert not node.enforcement.commit(2)
    assert get(node.flow()) == (True, Reason.NONE, "old http")


def test_at_most_three_rules_are_named() -> None:
    rules = tuple(http(name, PUBLIC) for name in "abcd")
    assert get(Node(egress(*rules)).flow(), b"/x")[2] == "a http, b http, c http"


def test_rulings_are_kept_within_bounds() -> None:
    node = Node(egress(allow("a")))
    for port in range(9000):
        node.flow(port=port)
    assert len(node.enforcement._rulings) == 8192


def test_the_memory_of_an_fqdn_identity_follows_what_the_kernel_says_of_it() -> None:
    node = Node(egress(allow("fqdn", EXAMPLE)))
    node.tables.identities[OUTSIDE] = NAMED
    node.tables.names[NAMED] = (WORLD, (hash64("fqdn:*.example.com"),))
    assert get(node.flow())[0]
    # The number was freed and given to other names; a ruling kept by number alone would still let the flow pass.
    node.tables.names[NAMED] = (WORLD, (hash64("fqdn:other.example.org"),))
    assert not get(node.flow())[0]


def test_an_audited_endpoint_passes_what_its_policy_refuses_and_says_why() -> None:
    names = Rule(Direction.EGRESS, Origin("n", "dns"), ports=UDP_53, dns=(EXAMPLE,))
    audited = EndpointPolicy((http("p", PUBLIC), names), enforce_egress=True, selected_by=("shop/client",), audit=True)
    node = Node(audited)
    secret = node.flow().http(b"GET", b"/secret", b"example.com", ())
    assert (secret.allowed, secret.audited, secret.reason, secret.rule) == (True, True, Reason.HTTP_DENIED, "p http")
    public = node.flow().http(b"GET", b"/public", b"example.com", ())
    assert (public.allowed, public.audited, public.reason) == (True, False, Reason.NONE)
    other = node.flow(server=RESOLVER, protocol=17, port=53).dns("other.test.")
    assert (other.allowed, other.audited, other.reason) == (True, True, Reason.DNS_DENIED)
    closed_port = node.flow(port=81).admitted()
    assert (closed_port.allowed, closed_port.audited, closed_port.reason) == (True, True, Reason.POLICY_DENIED)


def test_audit_mode_of_one_end_does_not_open_the_other() -> None:
    audited = EndpointPolicy((http("p", PUBLIC),), enforce_egress=True, audit=True)
    node = Node(audited, ingress(http("s", HttpRule(path="/other"), direction=Direction.INGRESS)))
    decision = node.flow(server=SERVER).http(b"GET", b"/secret", b"example.com", ())
    assert (decision.allowed, decision.audited, decision.rule) == (False, False, "s http")
    decision = node.flow(server=SERVER).http(b"GET", b"/other", b"example.com", ())
    assert (decision.allowed, decision.audited, decision.rule) == (True, True, "p http")


def test_what_is_limited_to_server_names_is_no_http() -> None:
    limited = Rule(Direction.EGRESS, Origin("t", "tls"), ports=TCP_80, server_names=("*.example.com",))
    assert not Node(egress(limited)).flow().http(b"GET", b"/", b"www.example.com", ()).allowed


def test_names_are_pinned_only_if_the_process_is_told_to() -> None:
    rule = Rule(Direction.EGRESS, Origin("p", "http"), peers=(EXAMPLE,), ports=TCP_80, http=(PUBLIC,))
    for pinned in (False, True):
        tables = MemoryTables()
        tables.endpoints[CLIENT] = EndpointRow(EndpointId(1), PolicyId(10), CLIENT_ID, BOTH)
        number = FIRST_FQDN_IDENTITY
        tables.identities[OUTSIDE] = number
        tables.names[number] = (WORLD, (hash64(EXAMPLE.label),))
        enforcement = Enforcement(tables, pin_names=pinned)
        enforcement.prepare(snapshot(1, {10: egress(rule)}))
        assert enforcement.commit(1)
        flow = enforcement.flow(CLIENT, OUTSIDE, 6, 80)
        assert flow is not None
        name = (EXAMPLE.match_name or EXAMPLE.match_pattern).rstrip(".").replace("*", "a").encode()
        assert flow.http(b"GET", b"/public", name, ()).allowed
        other = flow.http(b"GET", b"/public", b"other.test", ())
        assert (other.allowed, other.reason) == ((False, Reason.HOST_MISMATCH) if pinned else (True, Reason.NONE))


def test_a_connection_outlives_the_name_that_opened_it_and_a_new_one_does_not_begin() -> None:
    node = Node(egress(allow("fqdn", EXAMPLE)))
    node.tables.identities[OUTSIDE] = NAMED
    node.tables.names[NAMED] = (WORLD, (hash64("fqdn:*.example.com"),))
    flow = node.flow()
    assert get(flow) == (True, Reason.NONE, "fqdn allow")
    node.tables.identities[OUTSIDE], node.tables.established[OUTSIDE] = WORLD, NAMED
    node.tables.number = 2
    assert get(flow) == (True, Reason.NONE, "fqdn allow")
    assert get(node.flow()) == (False, Reason.POLICY_DENIED, "")
