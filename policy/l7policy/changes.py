# SPDX-License-Identifier: Apache-2.0
"""What a reload would change: policies by name, and the rules of each endpoint in each direction.

Compares meaning: a policy that only moved in its file, or got another comment, has not changed.

This module may not load, resolve labels of its own or write. It decides nothing, so it has no failure verdict.
"""

import operator
from collections.abc import Collection, Iterable, Mapping

import msgspec

from l7policy.model import EndpointPolicy, Frozen, Labels, NamedPort, Origin, Rule
from l7policy.policydoc import Policy
from l7policy.resolve import Mode, endpoint_policy
from l7policy.verdict import Direction
from l7policy.wording import describe


class Changes(Frozen, frozen=True):
    """Names of policies, sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether both sides mean the same."""
        return not (self.added or self.removed or self.modified)


class EndpointChange(Frozen, frozen=True):
    """How one direction of one endpoint is judged otherwise. Only what differs is told."""

    name: str
    direction: Direction
    before: str
    after: str


def compare(before: Iterable[Policy], after: Iterable[Policy]) -> Changes:
    """Which policies came, went or mean something else. Parts of one document count together."""
    old, new = _by_name(before), _by_name(after)
    return Changes(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        modified=tuple(sorted(name for name in old.keys() & new.keys() if _differ(old[name], new[name]))),
    )


def _by_name(policies: Iterable[Policy]) -> dict[str, list[Policy]]:
    found: dict[str, list[Policy]] = {}
    for policy in policies:
        found.setdefault(policy.name, []).append(policy)
    return found


def _differ(old: list[Policy], new: list[Policy]) -> bool:
    # Most are the very same, since a `documents.Loader` read them: then they need not be looked into.
    same = len(old) == len(new) and all(map(operator.is_, old, new))
    return not same and {policy.digest for policy in old} != {policy.digest for policy in new}


def endpoint_changes(
    before: tuple[Policy, ...],
    after: tuple[Policy, ...],
    endpoints: Mapping[str, Labels],
    mode: Mode = Mode.DEFAULT,
    ports: Mapping[Labels, Collection[NamedPort]] | None = None,
) -> tuple[EndpointChange, ...]:
    """Which of `endpoints` (name to labels) would be judged otherwise, by name and direction.

    `ports` are the named ports of workloads, by their labels.

    Endpoints with equal labels are resolved once.
    """
    by_labels: dict[Labels, tuple[tuple[Direction, str, str], ...]] = {}
    changes: list[EndpointChange] = []
    for name, labels in sorted(endpoints.items()):
        if labels not in by_labels:
            by_labels[labels] = _compare_policies(
                endpoint_policy(before, labels, mode=mode, cluster_ports=ports),
                endpoint_policy(after, labels, mode=mode, cluster_ports=ports),
            )
        changes.extend(EndpointChange(name, *change) for change in by_labels[labels])
    return tuple(changes)


def _compare_policies(before: EndpointPolicy, after: EndpointPolicy) -> tuple[tuple[Direction, str, str], ...]:
    changes: list[tuple[Direction, str, str]] = []
    for direction in Direction:
        old, new = _meanings(before, direction), _meanings(after, direction)
        if before.enforces(direction) != after.enforces(direction) or old != new:
            changes.append(
                (direction, _summary(before, direction, old - new), _summary(after, direction, new - old)),
            )
    return tuple(changes)


_NOWHERE = Origin("", "")


def _meanings(policy: EndpointPolicy, direction: Direction) -> frozenset[Rule]:
    """The rules without the places they were written in, so that moving one changes nothing."""
    return frozenset(
        msgspec.structs.replace(rule, origin=_NOWHERE) for rule in policy.rules if rule.direction == direction
    )


def _summary(policy: EndpointPolicy, direction: Direction, rules: frozenset[Rule]) -> str:
    if not policy.enforces(direction):
        return "not enforced"
    return "; ".join(sorted(describe(rule) for rule in rules)) or "enforced"
