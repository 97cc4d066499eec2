# SPDX-License-Identifier: Apache-2.0
"""What an address is apart from its names, while one snapshot or two are in force."""

import pytest

from l7dns.addresses import address_bytes
from l7dns.namecache import Fact
from l7dns.view import ConflictError, Trust, View
from l7policy.ids import HOST, WORLD, IdentityId, PolicyId, Revision
from l7policy.model import EndpointPolicy, FqdnPeer, Origin, Rule, Snapshot
from l7policy.verdict import Direction

CIDR = IdentityId(1 << 24)
NARROW = IdentityId((1 << 24) + 1)
WEB = IdentityId(300)

NODE = Trust(node_wide=True)


def snapshot(
    prefixes: dict[str, IdentityId],
    identities: dict[IdentityId, tuple[str, ...]],
    selectors: tuple[FqdnPeer, ...] = (),
    policies: dict[PolicyId, EndpointPolicy] | None = None,
) -> Snapshot:
    known = {WORLD: ("reserved:world",), HOST: ("reserved:host",), WEB: ("k8s:app=web",)}
    return Snapshot(Revision(1), policies or {}, known | identities, prefixes, selectors)


WIDE_ONLY = snapshot({"198.51.100.0/24": CIDR}, {CIDR: ("cidr:198.51.100.0/24", "reserved:world")})
NARROW_ONLY = snapshot(
    {"198.51.100.0/28": NARROW, "198.51.100.9/32": WEB, "192.0.2.1/32": HOST, "2001:db8::/32": CIDR},
    {NARROW: ("cidr:198.51.100.0/28", "reserved:world"), CIDR: ("cidr:2001:db8::/32", "reserved:world")},
)


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("203.0.113.1", WORLD),
        ("2001:db8::1", CIDR),
        ("2001:dc0::1", WORLD),
        ("198.51.100.1", NARROW),
        ("198.51.100.200", WORLD),
        ("198.51.100.9", None),
        ("192.0.2.1", None),
        ("127.0.0.1", None),
        ("0.0.0.0", None),
        ("169.254.169.254", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("::1", None),
        ("::", None),
        ("fe80::1", None),
        ("ff02::1", None),
        ("::ffff:203.0.113.1", None),
    ],
)
def test_names_are_learnt_for_addresses_outside_only(address: str, base: IdentityId | None) -> None:
    assert View([NARROW_ONLY]).base(address_bytes(address)) == base


def test_between_two_snapshots_the_longest_prefix_of_either_counts_with_the_labels_of_both() -> None:
    view = View([WIDE_ONLY, NARROW_ONLY])
    inner, outer = address_bytes("198.51.100.1"), address_bytes("198.51.100.200")
    assert (view.base(inner), view.base(outer)) == (NARROW, CIDR)
    assert view.labels(NARROW) == {"cidr:198.51.100.0/24", "cidr:198.51.100.0/28", "reserved:world"}
    assert View([NARROW_ONLY]).labels(NARROW) == {"cidr:198.51.100.0/28", "reserved:world"}


def test_selectors_of_both_snapshots_match() -> None:
    first = snapshot({}, {}, (FqdnPeer(match_name="a.example.com."),))
    second = snapshot({}, {}, (FqdnPeer(match_pattern="*.example.com."),))
    assert View([first, second], NODE).matching(Fact("a.example.com.")) == {"fqdn:a.example.com", "fqdn:*.example.com"}
    assert View([second], NODE).matching(Fact("a.example.com.")) == {"fqdn:*.example.com"}
    assert View([second], NODE).matching(Fact("a\\046b.example.com.")) == frozenset()


def test_one_policy_number_with_two_meanings_is_refused() -> None:
    first = snapshot({}, {}, policies={PolicyId(1): EndpointPolicy()})
    second = snapshot({}, {}, policies={PolicyId(1): EndpointPolicy(enforce_egress=True)})
    with pytest.raises(ConflictError, match="policy 1"):
        View([first, second])


def test_a_policy_whose_rules_only_moved_in_their_file_is_the_same() -> None:
    def moved(line: int) -> Snapshot:
        rule = Rule(Direction.EGRESS, Origin("shop/web", "egress[0]", "web.yaml", line))
        return Snapshot(Revision(line), {PolicyId(1): EndpointPolicy((rule,))}, {}, {}, ())

    assert PolicyId(1) in View([moved(3), moved(4)]).policies
