# SPDX-License-Identifier: Apache-2.0
"""Ports that rules call by name, with the numbers that workloads give those names.

The destination decides: on ingress it is the endpoint itself, on egress each remote workload. There one rule becomes
several, each for the workloads that agree on a number, so that what is compiled from it needs no names any more. The
name counts for its own protocol only: ``dns`` of UDP is not ``dns`` of TCP.

This module may not know Pods. Its failure verdict: a name that no destination has covers nothing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec.structs import replace

from l7policy.model import Labels, NamedPort, Port, Rule, WorkloadPeer
from l7policy.selectors import matches_any
from l7policy.verdict import Direction, Protocol


def with_numbers(
    rules: Iterable[Rule], own: Iterable[NamedPort], cluster: Mapping[Labels, Collection[NamedPort]]
) -> tuple[Rule, ...]:
    """The rules of one endpoint without names of ports: `own` are its ports, `cluster` those of all, by labels."""
    own = tuple(own)
    return tuple(numbered for rule in rules for numbered in _numbered(rule, own, cluster))


def _numbered(
    rule: Rule, own: tuple[NamedPort, ...], cluster: Mapping[Labels, Collection[NamedPort]]
) -> Iterator[Rule]:
    names = [port for port in rule.ports if port.name]
    if not names:
        yield rule
        return
    numbers = tuple(port for port in rule.ports if not port.name)
    if rule.direction == Direction.INGRESS:
        found = (*numbers, *_found(names, own))
        if found:  # A rule without ports would cover all of them.
            yield replace(rule, ports=tuple(dict.fromkeys(found)))
        return
    if numbers:
        yield replace(rule, ports=numbers)
    agreeing: dict[tuple[Port, ...], list[Labels]] = {}
    for labels, ports in cluster.items():
        if (found := _found(names, ports)) and matches_any(rule.peers, labels):
            agreeing.setdefault(tuple(sorted(found, key=lambda port: (port.protocol, port.first))), []).append(labels)
    for found in sorted(agreeing, key=lambda ports: [(port.protocol, port.first) for port in ports]):
        peers = sorted(tuple(sorted(labels)) for labels in agreeing[found])
        yield replace(rule, ports=found, peers=tuple(map(WorkloadPeer, peers)))


def _found(names: Iterable[Port], ports: Iterable[NamedPort]) -> tuple[Port, ...]:
    return tuple(
        dict.fromkeys(
            Port(port.protocol, port.port, port.port)
            for wanted in names
            for port in ports
            if port.name == wanted.name and wanted.protocol in (Protocol.ANY, port.protocol)
        )
    )
