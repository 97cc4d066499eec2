# SPDX-License-Identifier: Apache-2.0
"""From all policies to what applies to one endpoint, and to the CIDRs and names that need identities.

Two rules are added that no document holds, both named ``reserved/…`` in records:

- ``reserved/allow-all`` where policies with ``enableDefaultDeny: false`` alone select an endpoint in a direction. Their
  denies and L7 limits still act, and what they do not name is allowed. It covers every port and so voids no L7 limit.
- ``reserved/allow-localhost`` where ingress is enforced: the node may reach its workloads (probes, the agent), as in
  Cilium. A deny rule for the entity ``host`` still wins.

This module may not allocate identities. Its failure verdict: an endpoint that any policy asks default deny for has it.
"""

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from l7policy.model import CidrPeer, EndpointPolicy, EntityPeer, FqdnPeer, Labels, Origin, Rule
from l7policy.policydoc import Policy
from l7policy.selectors import EVERY_IPV4, EVERY_IPV6, WORLD_LABEL, selects
from l7policy.verdict import Direction

ALLOW_ALL: Final = "reserved/allow-all"
ALLOW_LOCALHOST: Final = "reserved/allow-localhost"

_FAMILY_RANGE: Final = {"world-ipv4": EVERY_IPV4, "world-ipv6": EVERY_IPV6}


def endpoint_policy(policies: Iterable[Policy], labels: Labels) -> EndpointPolicy:
    """What `policies` mean for an endpoint with these labels. Their order does not matter."""
    selecting = sorted(
        (policy for policy in policies if selects(policy.subject, labels)),
        key=lambda policy: (policy.name, policy.kind, policy.part),
    )
    rules = [rule for policy in selecting for rule in policy.rules]
    enforced: dict[Direction, bool] = {}
    for direction in Direction:
        deny_by_default = any(policy.default_deny(direction) for policy in selecting)
        enforced[direction] = deny_by_default or any(rule.direction == direction for rule in rules)
        if enforced[direction] and not deny_by_default:
            rules.append(Rule(direction, Origin(ALLOW_ALL, direction.name.lower())))
    if enforced[Direction.INGRESS]:
        rules.append(Rule(Direction.INGRESS, Origin(ALLOW_LOCALHOST, "ingress"), peers=(EntityPeer("host"),)))
    return EndpointPolicy(
        rules=tuple(rules),
        enforce_egress=enforced[Direction.EGRESS],
        enforce_ingress=enforced[Direction.INGRESS],
        selected_by=tuple(dict.fromkeys(policy.name for policy in selecting)),
    )


def cidrs(policies: Iterable[Policy]) -> set[str]:
    """Every prefix that a rule tells apart from the addresses around it, and that so needs an identity of its own."""
    found: set[str] = set()
    for rule in _rules(policies):
        for peer in rule.peers or ():
            if isinstance(peer, CidrPeer):
                found.add(peer.cidr)
                found.update(peer.excepts)
            elif isinstance(peer, EntityPeer) and peer.entity in _FAMILY_RANGE:
                found.add(_FAMILY_RANGE[peer.entity])
    return found


def selectors(policies: Iterable[Policy]) -> tuple[FqdnPeer, ...]:
    """Every toFQDNs selector, sorted. Names in DNS rules are not among them: they allow a question, not an address."""
    found = {peer for rule in _rules(policies) for peer in rule.peers or () if isinstance(peer, FqdnPeer)}
    return tuple(sorted(found, key=lambda peer: (peer.label, peer.match_pattern)))


def _rules(policies: Iterable[Policy]) -> Iterator[Rule]:
    return (rule for policy in policies for rule in policy.rules)


def cidr_labels(prefix: str, cidrs: Collection[str]) -> Labels:
    """Labels of the identity of `prefix`: itself, every one of `cidrs` around it, and the world."""
    return prefix_identity_labels({*cidrs, prefix}, only=prefix)[prefix]


def prefix_identity_labels(cidrs: Collection[str], only: str | None = None) -> dict[str, Labels]:
    """`cidr_labels` of each of `cidrs` (or of `only` one of them) in the order of addresses.

    For many prefixes this is the one to use: its cost grows with their number, not with the square of it.
    """
    networks = {text: ipaddress.ip_network(text) for text in cidrs}
    texts = {(net.version, net.prefixlen, int(net.network_address)): text for text, net in networks.items()}
    lengths = {version: sorted({key[1] for key in texts if key[0] == version}) for version in (4, 6)}
    labels: dict[str, Labels] = {}
    for text, net in sorted(networks.items(), key=_address_order) if only is None else [(only, networks[only])]:
        found = {WORLD_LABEL}
        for length in lengths[net.version]:
            if length > net.prefixlen:
                break
            host_bits = net.max_prefixlen - length
            around = texts.get((net.version, length, int(net.network_address) >> host_bits << host_bits))
            if around is not None:
                found.add(f"cidr:{around}")
        labels[text] = frozenset(found)
    return labels


def _address_order(item: tuple[str, ipaddress.IPv4Network | ipaddress.IPv6Network]) -> tuple[int, int, int]:
    network = item[1]
    return network.version, int(network.network_address), network.prefixlen
