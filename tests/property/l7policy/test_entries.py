# SPDX-License-Identifier: Apache-2.0
"""For every policy, identity and flow: what the kernel finds in the entries is what `judge` says."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from l7policy.entries import Entry, entries, port_prefixes
from l7policy.ids import ANY_IDENTITY, IdentityId
from l7policy.judgement import PolicyVerdict, judge
from l7policy.model import (
    LAST_PRIORITY,
    Action,
    CidrPeer,
    EndpointPolicy,
    EntityPeer,
    FqdnPeer,
    HttpRule,
    LabelPeer,
    Operator,
    Origin,
    Port,
    Requirement,
    Rule,
    Tier,
)
from l7policy.verdict import Direction, Protocol, ProxyKind

IDENTITIES = (
    frozenset({"k8s:app=web"}),
    frozenset({"k8s:app=db", "k8s:canary"}),
    frozenset({"reserved:host"}),
    frozenset({"reserved:world"}),
    frozenset({"reserved:world", "cidr:198.51.100.0/24"}),
    frozenset({"reserved:world", "cidr:198.51.100.0/24", "cidr:198.51.100.7/32"}),
    frozenset({"reserved:world", "cidr:198.51.100.0/24", "fqdn:*.example.com"}),
)
PEERS = st.sampled_from(
    [
        LabelPeer(),
        LabelPeer((Requirement("any:app", Operator.IN, ("web",)),)),
        LabelPeer((Requirement("k8s:canary", Operator.DOES_NOT_EXIST),)),
        CidrPeer("198.51.100.0/24"),
        CidrPeer("198.51.100.0/24", ("198.51.100.7/32",)),
        EntityPeer("all"),
        EntityPeer("world"),
        EntityPeer("cluster"),
        FqdnPeer(match_pattern="*.example.com."),
    ]
)
# Few numbers, near to each other and to the edges, so that ranges meet, nest and overlap.
NUMBERS = st.sampled_from([0, 1, 79, 80, 81, 90, 443, 32767, 32768, 65534, 65535])
PORTS = st.builds(
    lambda protocol, one, other: Port(protocol, min(one, other), max(one, other)),
    st.sampled_from([Protocol.ANY, Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP, Protocol.ICMPV6]),
    NUMBERS,
    NUMBERS,
)
NAMED = st.just(Port(Protocol.TCP, name="nobody-has-this"))
KINDS = st.sampled_from(["allow", "deny", "pass", "http", "dns", "tls"])
# Every other rule of the normal tier at its strongest, as documents of Cilium are; the rest at few, near levels.
LEVELS = st.just((Tier.NORMAL, 0)) | st.tuples(st.sampled_from(Tier), st.sampled_from([0, 1, 2, LAST_PRIORITY]))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    kind = draw(KINDS)
    tier, priority = draw(LEVELS)
    return Rule(
        draw(st.sampled_from(Direction)),
        Origin(draw(st.sampled_from("abc")), "rule"),
        peers=draw(st.none() | st.lists(PEERS, max_size=2).map(tuple)),
        ports=tuple(draw(st.lists(PORTS | NAMED, max_size=2))),
        action=Action(kind) if kind in list(Action) else Action.ALLOW,
        tier=tier,
        priority=priority,
        server_names=("a.example",) if kind == "tls" else None,
        http=(HttpRule(path="/a"),) if kind == "http" else None,
        dns=(FqdnPeer(match_pattern="*"),) if kind == "dns" else None,
    )


POLICIES = st.builds(
    EndpointPolicy,
    rules=st.lists(rules(), max_size=6).map(tuple),
    enforce_egress=st.just(value=True) | st.booleans(),
    enforce_ingress=st.just(value=True) | st.booleans(),
)
PROTOCOLS = st.sampled_from([Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP, Protocol.ICMPV6, 47])


class Kernel:
    """The policy map of one policy: a longest-prefix trie per identity and direction."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int, int, int], Entry] = {}

    def write(self, found: list[Entry]) -> None:
        for entry in found:
            assert entry.port & (0xFFFF >> entry.port_bits) == 0, "bits below the prefix must be zero"
            key = (entry.identity, entry.direction, entry.prefix_bits, self.head(entry.protocol, entry.port, entry))
            assert key not in self.rows, "two entries for one key"
            self.rows[key] = entry

    @staticmethod
    def head(protocol: int, port: int, entry: Entry) -> int:
        return (protocol << 16 | port) >> (24 - entry.prefix_bits)

    def longest(self, identity: int, direction: int, protocol: int, port: int) -> Entry | None:
        for bits in range(24, -1, -1):
            entry = self.rows.get((identity, direction, bits, (protocol << 16 | port) >> (24 - bits)))
            if entry is not None:
                return entry
        return None

    def verdict(self, identity: int, direction: int, protocol: int, port: int) -> tuple[PolicyVerdict, ProxyKind]:
        specific = self.longest(identity, direction, protocol, port)
        anybody = self.longest(ANY_IDENTITY, direction, protocol, port)
        winner = specific
        if specific is None or (anybody is not None and anybody.precedence > specific.precedence):
            winner = anybody
        return (PolicyVerdict.DENY, ProxyKind.NONE) if winner is None else (winner.verdict, winner.proxy)


def kernel_of(policy: EndpointPolicy) -> Kernel:
    kernel = Kernel()
    kernel.write(entries(policy, ANY_IDENTITY, None))
    for number, labels in enumerate(IDENTITIES, 256):
        kernel.write(entries(policy, IdentityId(number), labels))
    return kernel


WIDE_DENY = EndpointPolicy(
    (
        Rule(Direction.EGRESS, Origin("deny", "wide"), peers=(CidrPeer("198.51.100.0/24"),), action=Action.DENY),
        Rule(Direction.EGRESS, Origin("allow", "narrow"), peers=(CidrPeer("198.51.100.7/32"),)),
        Rule(Direction.EGRESS, Origin("allow", "name"), peers=(FqdnPeer(match_pattern="*.example.com."),)),
        Rule(Direction.EGRESS, Origin("allow", "all"), peers=(EntityPeer("all"),)),
    ),
    enforce_egress=True,
)
"""CVE-2024-47825: the deny was ignored for what a narrower prefix or a name allowed."""

RANGE_OVER_L7 = EndpointPolicy(
    (
        Rule(Direction.EGRESS, Origin("l7", "80"), ports=(Port(Protocol.TCP, 80, 80),), http=(HttpRule(path="/a"),)),
        Rule(Direction.EGRESS, Origin("l4", "range"), ports=(Port(Protocol.TCP, 1, 65535),)),
    ),
    enforce_egress=True,
)
"""CVE-2024-52529: the range hid the limits on the port inside it."""


@given(POLICIES, st.data())
@settings(max_examples=200, deadline=None)
def test_the_kernel_and_the_readable_truth_agree(policy: EndpointPolicy, data: st.DataObject) -> None:
    kernel = kernel_of(policy)
    for _ in range(8):
        number = data.draw(st.integers(0, len(IDENTITIES) - 1))
        direction, protocol, port = data.draw(st.sampled_from(Direction)), data.draw(PROTOCOLS), data.draw(NUMBERS)
        if not policy.enforces(direction):
            continue  # the endpoint's flags keep the kernel from asking
        truth = judge(policy, direction, IDENTITIES[number], protocol, port)
        assert kernel.verdict(256 + number, direction, protocol, port) == (truth.verdict, truth.proxy)


PASSED_AMONG_ANYBODY = EndpointPolicy(
    (
        Rule(Direction.EGRESS, Origin("p", "1"), peers=(LabelPeer(),), action=Action.PASS, tier=Tier.ADMIN),
        Rule(Direction.EGRESS, Origin("d", "2"), action=Action.DENY, tier=Tier.ADMIN, priority=1),
        Rule(Direction.EGRESS, Origin("a", "3"), peers=(LabelPeer(),), ports=(Port(Protocol.TCP, 80, 80),)),
        Rule(Direction.EGRESS, Origin("q", "4"), action=Action.PASS, tier=Tier.NORMAL, priority=7),
        Rule(Direction.EGRESS, Origin("b", "5"), action=Action.DENY, tier=Tier.BASELINE),
    ),
    enforce_egress=True,
)
"""A pass for one peer must beat the deny for any peer that it skips, and no more than that."""


@given(st.sampled_from(range(len(IDENTITIES))), PROTOCOLS, NUMBERS)
@settings(max_examples=100, deadline=None)
def test_a_pass_for_some_skips_what_is_denied_to_all(number: int, protocol: int, port: int) -> None:
    truth = judge(PASSED_AMONG_ANYBODY, Direction.EGRESS, IDENTITIES[number], protocol, port)
    kernel = kernel_of(PASSED_AMONG_ANYBODY).verdict(256 + number, Direction.EGRESS, protocol, port)
    assert kernel == (truth.verdict, truth.proxy)
    workload = any(label.startswith("k8s:") for label in IDENTITIES[number])
    assert (truth.verdict == PolicyVerdict.ALLOW) == (workload and (protocol, port) == (Protocol.TCP, 80))


@given(st.sampled_from([Protocol.TCP, Protocol.UDP]), NUMBERS)
@example(Protocol.TCP, 80)
@settings(max_examples=50, deadline=None)
def test_advisories_about_wide_rules_do_not_apply(protocol: Protocol, port: int) -> None:
    denied = kernel_of(WIDE_DENY)
    for number, labels in enumerate(IDENTITIES, 256):
        expected = PolicyVerdict.DENY if "cidr:198.51.100.0/24" in labels else PolicyVerdict.ALLOW
        assert denied.verdict(number, Direction.EGRESS, protocol, port)[0] == expected
    if (protocol, port) == (Protocol.TCP, 80):
        redirected = kernel_of(RANGE_OVER_L7).verdict(256, Direction.EGRESS, protocol, port)
        assert redirected == (PolicyVerdict.REDIRECT, ProxyKind.HTTP)


@given(POLICIES)
@settings(max_examples=100, deadline=None)
def test_no_entry_can_be_left_out(policy: EndpointPolicy) -> None:
    """Each differs from what the next shorter entry of its identity would say."""
    for identity, labels in ((ANY_IDENTITY, None), (IdentityId(300), IDENTITIES[-1])):
        found = entries(policy, identity, labels)
        for entry in found:
            rest = Kernel()
            rest.write([other for other in found if other is not entry])
            shorter = rest.longest(identity, entry.direction, entry.protocol, entry.port)
            if shorter is not None and shorter.prefix_bits < entry.prefix_bits:
                assert shorter.precedence <= entry.precedence
                assert (shorter.verdict, shorter.proxy, shorter.precedence) != (
                    entry.verdict,
                    entry.proxy,
                    entry.precedence,
                )


@given(st.integers(0, 65535), st.integers(0, 65535))
@settings(max_examples=200, deadline=None)
def test_prefixes_cover_a_range_exactly_once_with_at_most_thirty(one: int, other: int) -> None:
    first, last = min(one, other), max(one, other)
    following = first
    prefixes = port_prefixes(first, last)
    for port, bits in prefixes:
        assert port == following
        assert port % (1 << (16 - bits)) == 0
        following = port + (1 << (16 - bits))
    assert following == last + 1
    assert len(prefixes) <= 30
