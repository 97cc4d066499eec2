# SPDX-License-Identifier: Apache-2.0
"""Questions worth asking when policies change: every pair of ends that the change can touch, on every port, with every
kind of request that the policies speak of.

Ends are the workloads of a cluster, or where none is known one for each selector; one address for each CIDR, one name
for each FQDN selector, the node and the world. Requests and names are samples that the policies' own expressions match.

May not judge. Failure verdict: what is not sampled is not asked.
"""

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from l7policy import labels
from l7policy.cluster import Cluster
from l7policy.http import pattern
from l7policy.model import CidrPeer, FqdnPeer, HttpRule, LabelPeer, Labels, Operator, Requirement, Rule
from l7policy.policydoc import Policy
from l7policy.question import HttpRequest, Question, Side
from l7policy.resolve import endpoint_policy
from l7policy.selectors import EVERY_IPV4, HOST_LABEL
from l7policy.verdict import Protocol

LIMIT: Final = 50_000
"""Questions of one comparison."""

_WORD: Final = "probe"
_USUAL_PORT: Final = (Protocol.TCP, 80)
_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")

_Carried = tuple[Protocol, int, HttpRequest | None, str | None, str | None]


def probes(before: Sequence[Policy], after: Sequence[Policy], cluster: Cluster) -> Iterator[Question]:
    """The questions, without end: whoever asks stops at `LIMIT`."""
    rules = tuple(dict.fromkeys(rule.unplaced() for policy in (*before, *after) for rule in policy.rules))
    workloads = _workloads((*before, *after), rules, cluster)
    outside = _outside(rules)
    carried = tuple(dict.fromkeys(_carried(rules)))
    changed = {
        side: endpoint_policy(before, side.labels).digest != endpoint_policy(after, side.labels).digest
        for side in workloads
    }
    ends = (*workloads, *outside)
    for source, destination in itertools.product(ends, ends):
        if source is not destination and (changed.get(source) or changed.get(destination)):
            for protocol, port, http, dns, sni in carried:
                yield Question(source, destination, (protocol,), port, http, dns, sni)


def _workloads(policies: Sequence[Policy], rules: Iterable[Rule], cluster: Cluster) -> tuple[Side, ...]:
    if cluster.endpoints:
        found: dict[Labels, Side] = {}
        for endpoint in cluster.endpoints.values():
            found.setdefault(endpoint.labels, Side(endpoint.name, labels=endpoint.labels, ports=endpoint.ports))
        return tuple(found.values())
    selectors = [policy.subject for policy in policies]
    selectors += [peer.requirements for rule in rules for peer in rule.peers or () if isinstance(peer, LabelPeer)]
    made = dict.fromkeys(filter(None, map(_labels, selectors)))
    return tuple(Side(_text(one), labels=one) for one in made)


def _labels(requirements: Sequence[Requirement]) -> Labels | None:
    """The fewest labels that meet the requirements; None for what selects no workload."""
    found: dict[str, str] = {labels.NAMESPACE: labels.DEFAULT_NAMESPACE}
    for requirement in requirements:
        source, key = labels.split_source(requirement.key, labels.K8S)
        if source == labels.RESERVED:
            return None
        name = f"{labels.K8S if source == labels.ANY else source}:{key}"
        if requirement.operator == Operator.IN:
            found[name] = requirement.values[0]
        elif requirement.operator == Operator.EXISTS:
            found.setdefault(name, _WORD)
    return frozenset(f"{key}={value}" for key, value in found.items())


def _text(found: Labels) -> str:
    return ",".join(sorted(label.removeprefix(f"{labels.K8S}:") for label in found))


def _outside(rules: Iterable[Rule]) -> tuple[Side, ...]:
    peers = [peer for rule in rules for peer in rule.peers or ()]
    cidrs = {text for peer in peers if isinstance(peer, CidrPeer) for text in (peer.cidr, *peer.excepts)}
    names = {_name(peer) for peer in peers if isinstance(peer, FqdnPeer)}
    return (
        Side("reserved:host", labels=frozenset({HOST_LABEL})),
        Side("reserved:world", prefix=EVERY_IPV4),
        *(Side(_address(cidr), prefix=_prefix(cidr)) for cidr in sorted(cidrs)),
        *(Side(f"fqdn:{name.rstrip('.')}", names=(name,)) for name in sorted(names)),
    )


def _address(cidr: str) -> str:
    """An address inside; not the first, which is often carved out."""
    network = ipaddress.ip_network(cidr)
    return str(network[min(1, network.num_addresses - 1)])


def _prefix(cidr: str) -> str:
    return str(ipaddress.ip_network(_address(cidr)))


def _name(peer: FqdnPeer) -> str:
    """A name that the selector matches."""
    if peer.match_name:
        return peer.match_name
    if not peer.match_pattern.strip("*."):
        return f"{_WORD}.invalid."
    while "**" in (text := peer.match_pattern):
        peer = FqdnPeer(match_pattern=text.replace("**", "*"))
    return peer.match_pattern.replace("*", _WORD)


def _carried(rules: Iterable[Rule]) -> Iterator[_Carried]:
    yield (*_USUAL_PORT, None, None, None)
    for rule in rules:
        for port in rule.ports:
            if port.name:
                continue
            protocol = Protocol.TCP if port.protocol == Protocol.ANY and rule.dns is None else port.protocol
            protocol = Protocol.UDP if protocol == Protocol.ANY else Protocol(protocol)
            first = port.first or 1 if protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP) else port.first
            yield protocol, first, None, None, None
            for match in rule.http or ():
                for request in _requests(match):
                    yield protocol, first, request, None, None
            for name in rule.dns or ():
                yield protocol, first, None, _name(name), None
            for server in rule.server_names or ():
                yield protocol, first, None, None, server.replace("**", "*").replace("*", _WORD)


def _requests(rule: HttpRule) -> Iterator[HttpRequest]:
    """A request of each method that the rule allows, where they can be made of its expressions."""
    methods = [one for one in _METHODS if pattern(rule.method).matches(one.encode())] if rule.method else ["GET"]
    path = _sample(rule.path) if rule.path else "/"
    host = _sample(rule.host) if rule.host else ""
    if path is not None and host is not None and path.startswith("/"):
        headers = tuple((match.name, match.value or _WORD) for match in rule.headers if match.value is not None)
        headers += tuple((match.name, _WORD) for match in rule.headers if match.value is None)
        for method in methods:
            yield HttpRequest(method, path, host, headers)


def _sample(expression: str) -> str | None:
    """A text that the expression matches, by a few usual shapes."""
    for old, new in (("(/.*)?", ""), (r"(\?.*)?", ""), ("(.*)?", ""), ("[.]", "."), (r"\.", "."), (r"\?", "?")):
        expression_ = expression.replace(old, new)
        if expression_ != expression and (found := _sample(expression_)) is not None:
            if pattern(expression).matches(found.encode()):
                return found
            return None
    text = expression.partition("|")[0].removeprefix("^").removesuffix("$")
    for star in (".*", ".+", "[^/]+", "[^/]*", "[0-9]+", r"\d+"):
        text = text.replace(star, "1")
    return text if pattern(expression).matches(text.encode()) else None
