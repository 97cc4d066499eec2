# SPDX-License-Identifier: Apache-2.0
"""Which labelled things each selector selects, kept up to date by what changes.

A thing is an identity, a group of endpoints, whatever has labels. The cache knows two indexes: from labels to things,
for a selector that is new, and from labels to selectors, for a thing that is new. So a new thing meets only selectors
that mention its labels, and a new selector only things that carry what it asks for. The indexes hold *necessary*
conditions only, and whoever passes them is asked by the real `selectors.matches`: an index that knows too little about
a new kind of selector costs time and never a wrong answer.

This module may not know rules or policies. Its failure verdict: a selector without an index is asked about everybody.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from l7policy.model import (
    CidrPeer,
    FqdnPeer,
    LabelPeer,
    Labels,
    NodePeer,
    Operator,
    Peer,
    Requirement,
    WorkloadPeer,
)
from l7policy.selectors import SYNTHETIC_SOURCES, matches, selects

Thing = TypeVar("Thing")
Selector = TypeVar("Selector")

Terms = frozenset[str]
"""What labels are found by: ``k8s:app`` and ``k8s:app=web``, for workloads also ``any:app`` and ``any:app=web``."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Necessary conditions of a selector, as terms."""

    every: Terms = frozenset()
    """Each of these."""
    one_of: tuple[Terms, ...] = ()
    """At least one of each of these."""
    keys: frozenset[str] = frozenset()
    """Of all labels of workloads it looks at those with these keys only, as ``k8s:app`` or ``any:app``, and at whether
    there is any. Labels of this program's own sources may always make a difference to it."""
    exactly: Labels | None = None
    """It looks at all labels, for these and no others."""


def terms(labels: Labels) -> Terms:
    """Every term that the labels answer to."""
    return frozenset().union(*map(_terms_of, labels))


@functools.lru_cache(maxsize=1 << 14)
def _terms_of(label: str) -> Terms:
    key, equals, _ = label.partition("=")
    full = label if equals else f"{label}="
    source, _, rest = full.partition(":")
    if source in SYNTHETIC_SOURCES:
        return frozenset({key, full})
    return frozenset({key, full, f"any:{key.partition(':')[2]}", f"any:{rest}"})


def needs_of_requirements(requirements: Iterable[Requirement]) -> Needs:
    """What labels must have to meet all of them. What they must not have is not asked here."""
    every: set[str] = set()
    one_of: list[Terms] = []
    keys: set[str] = set()
    for requirement in requirements:
        keys.add(requirement.key)
        if requirement.operator == Operator.EXISTS:
            every.add(requirement.key)
        elif requirement.operator == Operator.IN:
            values = frozenset(f"{requirement.key}={value}" for value in requirement.values)
            if len(values) == 1:
                every |= values
            else:
                one_of.append(values)
    return Needs(frozenset(every), tuple(one_of), frozenset(keys))


def needs_of_peer(peer: Peer) -> Needs:
    """What labels must have for a peer to select them. Entities are few, and ask for nothing here."""
    match peer:
        case LabelPeer() | NodePeer():
            return needs_of_requirements(peer.requirements)
        case CidrPeer():
            return Needs(frozenset({f"cidr:{peer.cidr}="}))
        case FqdnPeer():
            return Needs(frozenset({f"{peer.label}="}))
        case WorkloadPeer():
            return Needs(frozenset(_full(peer.labels)), exactly=frozenset(peer.labels))
        case _:
            return Needs()


@dataclass(slots=True, eq=False)
class _Selection(Generic[Selector, Thing]):
    """One selector in use, and whom it selects. Itself a key, since to hash a selector takes a microsecond."""

    selector: Selector
    needs: Needs
    anchors: tuple[str, ...] = ()
    """Terms under which new things find it; none: everybody is asked."""
    members: set[Thing] = field(default_factory=set)
    users: int = 0


Change = tuple[Selector, Thing]
_Met = dict[_Selection[Selector, Thing], None]
"""Selectors that select something, in the order in which they were found."""


class SelectorCache(Generic[Selector, Thing]):
    """Selectors in use and the things they select."""

    def __init__(self, needs: Callable[[Selector], Needs], selected: Callable[[Selector, Labels], bool]) -> None:
        self._needs = needs
        self._selected = selected
        self._labels: dict[Thing, Labels] = {}
        self._selections: dict[Selector, _Selection[Selector, Thing]] = {}
        self._with_label: dict[str, set[Thing]] = {}
        """Things by label, always with ``=``."""
        self._of_key: dict[str, set[str]] = {}
        """Those labels by ``source:key``: what Exists stands for."""
        self._workload_sources: set[str] = set()
        """What ``any:`` stands for: two or three, so none is ever forgotten."""
        self._anchored: dict[str, _Met[Selector, Thing]] = {}
        self._unanchored: _Met[Selector, Thing] = {}
        self._keys: set[str] = set()
        """Keys that selectors have looked at. One that none looks at any more costs a little and changes nothing."""
        self._exactly: Counter[Labels] = Counter()
        """See `Needs.exactly`, of the selectors in use."""
        self._seen: set[str] = set()
        """Those of the labels in use that can make a difference to a selector."""

    def __len__(self) -> int:
        return len(self._selections)

    # -- selectors ------------------------------------------------------------------------------------------------

    def acquire(self, selector: Selector) -> Set[Thing]:
        """Takes a selector into use, once more if it is. Returns whom it selects, now and from now on."""
        selection = self._selections.get(selector)
        if selection is None:
            selection = self._selections[selector] = self._select(selector)
        selection.users += 1
        return selection.members

    def release(self, selector: Selector) -> None:
        """Undoes one `acquire`."""
        selection = self._selections[selector]
        selection.users -= 1
        if selection.users:
            return
        del self._selections[selector]
        self._unanchored.pop(selection, None)
        if (exactly := selection.needs.exactly) is not None:
            self._exactly[exactly] -= 1
            if not self._exactly[exactly]:
                del self._exactly[exactly]
        for anchor in selection.anchors:
            anchored = self._anchored[anchor]
            del anchored[selection]
            if not anchored:
                del self._anchored[anchor]

    def members(self, selector: Selector) -> Set[Thing]:
        """Whom a selector in use selects."""
        return self._selections[selector].members

    def _select(self, selector: Selector) -> _Selection[Selector, Thing]:
        needs = self._needs(selector)
        selection = _Selection[Selector, Thing](selector, needs)
        for key in needs.keys - self._keys:
            self._keys.add(key)
            self._see(self._standing_for(key))
        if needs.exactly is not None:
            self._exactly[needs.exactly] += 1
        candidates: Iterable[Thing] = self._labels
        options = [frozenset({term}) for term in needs.every] + list(needs.one_of)
        if options:
            found = [
                [self._with_label[label] for term in option for label in self._standing_for(term)] for option in options
            ]
            # The rarest condition is the anchor: fewest things are asked now, and the fewest later, too.
            by_size = sorted((sum(map(len, sets)), min(options[index]), index) for index, sets in enumerate(found))
            first, *others = (found[index] for _, _, index in by_size)
            narrowed: set[Thing] = set().union(*first)
            for sets in others:
                narrowed = narrowed & sets[0] if len(sets) == 1 else narrowed.intersection(set().union(*sets))
            candidates = narrowed
            selection.anchors = tuple(options[by_size[0][2]])
        for anchor in selection.anchors:
            self._anchored.setdefault(anchor, {})[selection] = None
        if not options:
            self._unanchored[selection] = None
        selected, labels = self._selected, self._labels
        selection.members.update(thing for thing in candidates if selected(selector, labels[thing]))
        return selection

    def _standing_for(self, term: str) -> list[str]:
        """The labels in use that answer to a term."""
        source, _, rest = term.partition(":")
        key, equals, _ = rest.partition("=")
        sources = self._workload_sources if source == "any" else {source}
        if equals:
            return [label for source in sources if (label := f"{source}:{rest}") in self._with_label]
        return [label for source in sources for label in self._of_key.get(f"{source}:{key}", ())]

    # -- things ---------------------------------------------------------------------------------------------------

    def update(
        self, things: Mapping[Thing, Labels | None]
    ) -> tuple[list[Change[Selector, Thing]], list[Change[Selector, Thing]]]:
        """Takes over new labels of things; None: it is gone. Returns who was selected newly, and who is no more."""
        gained: list[Change[Selector, Thing]] = []
        lost: list[Change[Selector, Thing]] = []
        alike: dict[object, _Met[Selector, Thing]] = {}
        for thing, labels in things.items():
            before = self._labels.get(thing)
            if before == labels:
                continue
            left: _Met[Selector, Thing] = {}
            met: _Met[Selector, Thing] = {}
            if before is not None:
                left = self._selecting(before, alike)
                self._unindex(thing, before)
            if labels is not None:
                self._index(thing, labels)
                met = self._selecting(labels, alike)
            if left is met:
                continue
            for selection in left:
                if selection not in met:
                    selection.members.remove(thing)
                    lost.append((selection.selector, thing))
            for selection in met:
                if selection not in left:
                    selection.members.add(thing)
                    gained.append((selection.selector, thing))
        return gained, lost

    def labels_of(self, thing: Thing) -> Labels:
        """The labels of a thing."""
        return self._labels[thing]

    def things(self) -> Mapping[Thing, Labels]:
        """Every thing and its labels. Not to be changed."""
        return self._labels

    def _selecting(self, labels: Labels, alike: dict[object, _Met[Selector, Thing]]) -> _Met[Selector, Thing]:
        """Every selector that selects things with these labels, which are in the index. `alike`: what the same update
        was told before; things come and go by the hundred, and most differ in what no selector looks at."""
        if not self._selections:
            return {}
        seen = labels & self._seen
        # What is not seen is a workload's. That there is such a label may count, but not which.
        key = seen, len(seen) == len(labels), labels if labels in self._exactly else None
        found = alike.get(key)
        if found is None:
            selected = self._selected
            found = {one: None for one in self._meeting(labels, seen) if selected(one.selector, labels)}
            alike[key] = found
        return found

    def _meeting(self, labels: Labels, seen: Labels) -> _Met[Selector, Thing]:
        """The selectors whose necessary conditions are met: by labels that are `seen`, but for a selector that looks at
        all of them."""
        carried = terms(labels if labels in self._exactly else seen)
        met = dict(self._unanchored)
        for term in self._anchored.keys() & carried:
            for selection in self._anchored[term]:
                needs = selection.needs
                if needs.every <= carried and all(not one.isdisjoint(carried) for one in needs.one_of):
                    met[selection] = None
        return met

    def _index(self, thing: Thing, labels: Labels) -> None:
        self._labels[thing] = labels
        with_label = self._with_label
        for label in labels:
            carriers = with_label.get(label)
            if carriers is None:
                full = label if "=" in label else f"{label}="
                carriers = with_label.get(full)
                if carriers is None:
                    carriers = with_label[full] = self._new_label(full)
            carriers.add(thing)

    def _new_label(self, label: str) -> set[Thing]:
        key = label.partition("=")[0]
        self._of_key.setdefault(key, set()).add(label)
        source, _, rest = key.partition(":")
        if source in SYNTHETIC_SOURCES:
            self._see((label,))
        else:
            self._workload_sources.add(source)
            if key in self._keys or f"any:{rest}" in self._keys:
                self._see((label,))
        return set()

    def _unindex(self, thing: Thing, labels: Labels) -> None:
        del self._labels[thing]
        with_label = self._with_label
        for label in labels:
            full = label
            carriers = with_label.get(label)
            if carriers is None:
                full = label if "=" in label else f"{label}="
                carriers = with_label.get(full)
                if carriers is None:
                    continue  # the same label in its other spelling was the thing's, too
            carriers.discard(thing)
            if not carriers:
                del with_label[full]
                self._seen.discard(full)
                if full.endswith("="):
                    self._seen.discard(full[:-1])
                key = full.partition("=")[0]
                in_use = self._of_key[key]
                in_use.remove(full)
                if not in_use:
                    del self._of_key[key]

    def _see(self, labels: Iterable[str]) -> None:
        """Takes labels in use among those that make a difference, in both spellings of an empty value."""
        for label in labels:
            self._seen.add(label)
            if label.endswith("="):
                self._seen.add(label[:-1])


def _full(labels: Iterable[str]) -> set[str]:
    return {label if "=" in label else f"{label}=" for label in labels}


def peer_cache() -> SelectorCache[Peer, Thing]:
    """For the peers of rules."""
    return SelectorCache(needs_of_peer, matches)


def subject_cache() -> SelectorCache[tuple[Requirement, ...], Thing]:
    """For the subjects of policies."""
    return SelectorCache(needs_of_requirements, selects)
