# SPDX-License-Identifier: Apache-2.0
"""From all policies to what applies to one endpoint, and to the CIDRs and names that need identities.

Two rules are added that no document holds, both named ``reserved/…`` in records:

- ``reserved/allow-all`` where no policy that selects an endpoint asks for default deny in a direction
  (``enableDefaultDeny: false``, or AdminNetworkPolicy alone). Their denies and L7 limits still act, and what they do
  not name is allowed. It covers every port, after all tiers, and so voids no L7 limit.
- ``reserved/allow-localhost`` where ingress of a workload is enforced: the node may reach its workloads (probes, the
  agent), as in Cilium. A deny rule for the entity ``host`` still wins.

A workload without labels (``reserved:init``) is denied by default both ways, also where no policy selects it, as in
Cilium: nobody knows yet which policies are its own.

Default deny ends the normal tier: where a policy asks for it, rules of the baseline tier have no say.

This module may not allocate identities. Its failure verdict: an endpoint that any policy asks default deny for has it.
"""

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final

from l7policy.model import (
    CidrPeer,
    EndpointPolicy,
    EntityPeer,
    FqdnPeer,
    Labels,
    NamedPort,
    Origin,
    Rule,
    Tier,
)
from l7policy.namedports import with_numbers
from l7policy.policydoc import Policy, SubjectKind
from l7policy.selectors import EVERY_IPV4, EVERY_IPV6, HOST_LABEL, INIT_LABEL, WORLD_LABEL, selects
from l7policy.verdict import Direction

ALLOW_ALL: Final = "reserved/allow-all"
ALLOW_LOCALHOST: Final = "reserved/allow-localhost"

_FAMILY_RANGE: Final = {"world-ipv4": EVERY_IPV4, "world-ipv6": EVERY_IPV6}


class Mode(StrEnum):
    """Whom policy is enforced for (Cilium's ``policy-enforcement-mode``)."""

    DEFAULT = "default"
    """Endpoints that a policy selects."""
    ALWAYS = "always"
    """Every endpoint, in both directions: what no rule allows is denied. Nodes only where a policy selects them."""
    NEVER = "never"
    """Nobody."""


def endpoint_policy(
    policies: Iterable[Policy],
    labels: Labels,
    *,
    mode: Mode = Mode.DEFAULT,
    audit: bool = False,
    own_ports: Iterable[NamedPort] | None = None,
    cluster_ports: Mapping[Labels, Collection[NamedPort]] | None = None,
) -> EndpointPolicy:
    """What `policies` mean for an endpoint with these labels. Their order does not matter.

    `cluster_ports` are the named ports of every workload that is known, by its labels; `own_ports` those of this very
    endpoint (not given: those of its labels). Names that are in neither match nothing.
    """
    return combine(
        (policy for policy in policies if selects_endpoint(policy, labels)),
        labels,
        mode=mode,
        audit=audit,
        own_ports=own_ports,
        cluster_ports=cluster_ports,
    )


def selects_endpoint(policy: Policy, labels: Labels) -> bool:
    """Whether the policy applies to an endpoint with these labels; one with ``reserved:host`` is the node itself."""
    kind = SubjectKind.NODE if HOST_LABEL in labels else SubjectKind.ENDPOINT
    return policy.subject_kind == kind and selects(policy.subject, labels)


def combine(
    selecting: Iterable[Policy],
    labels: Labels,
    *,
    mode: Mode = Mode.DEFAULT,
    audit: bool = False,
    own_ports: Iterable[NamedPort] | None = None,
    cluster_ports: Mapping[Labels, Collection[NamedPort]] | None = None,
) -> EndpointPolicy:
    """`endpoint_policy` of the policies that select the endpoint."""
    if mode == Mode.NEVER:
        return EndpointPolicy()
    selecting = sorted(selecting, key=lambda policy: (policy.name, policy.kind, policy.part))
    rules = [rule for policy in selecting for rule in policy.rules]
    node = HOST_LABEL in labels
    always = (mode == Mode.ALWAYS or INIT_LABEL in labels) and not node
    enforced: dict[Direction, bool] = {}
    for direction in Direction:
        deny_by_default = any(policy.default_deny(direction) for policy in selecting)
        enforced[direction] = always or deny_by_default or any(rule.direction == direction for rule in rules)
        if deny_by_default:
            rules = [rule for rule in rules if rule.direction != direction or rule.tier != Tier.BASELINE]
        elif enforced[direction] and not always:
            origin = Origin(ALLOW_ALL, direction.name.lower())
            rules.append(Rule(direction, origin, tier=Tier.REST))
    if enforced[Direction.INGRESS] and not node:
        rules.append(Rule(Direction.INGRESS, Origin(ALLOW_LOCALHOST, "ingress"), peers=(EntityPeer("host"),)))
    ports = cluster_ports or {}
    return EndpointPolicy(
        rules=with_numbers(rules, ports.get(labels, ()) if own_ports is None else own_ports, ports),
        enforce_egress=enforced[Direction.EGRESS],
        enforce_ingress=enforced[Direction.INGRESS],
        selected_by=tuple(dict.fromkeys(policy.name for policy in selecting)),
        audit=audit and (enforced[Direction.EGRESS] or enforced[Direction.INGRESS]),
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
    return in_order(peer for rule in _rules(policies) for peer in rule.peers or () if isinstance(peer, FqdnPeer))


def in_order(found: Iterable[FqdnPeer]) -> tuple[FqdnPeer, ...]:
    """Each selector once, sorted."""
    return tuple(sorted(set(found), key=lambda peer: (peer.label, peer.match_pattern)))


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
