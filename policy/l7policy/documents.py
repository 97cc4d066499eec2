# SPDX-License-Identifier: Apache-2.0
"""From policy files to policies: all of them, or every mistake in any of them.

The entry to the YAML side of this package. May not read files or know what a policy is applied to.

Files are taken apart into their documents, each is read by itself, and its tree is dropped as soon as its policies are
made. A `Loader` remembers of the last good reading what each document came to, by what it says and where it stands, so
that reading a thousand policies again costs what changed in them. Only a policy that refers to CIDR groups or services
is read again when one of those is another than before.

Failure verdict: `PolicyErrors`; then there are no policies at all, so nothing is ever half-applied.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from l7policy import adminpolicy, capability, cilium, envelope, kubernetes, objects, yamltree
from l7policy.envelope import Document
from l7policy.errors import PolicyError, PolicyErrors
from l7policy.objects import Object, Objects, Unsettled
from l7policy.policydoc import Policy, Source
from l7policy.reader import Reader
from l7policy.yamltree import Node, Part

__all__ = ["Loader", "Policy", "Source", "load", "load_enforced"]


class _Place(NamedTuple):
    """What says in which words: a reading of it can be used again while this is the same."""

    path: str
    line: int
    digest: bytes
    """Of the text."""


class _Head(NamedTuple):
    """Of a document: what no other may be called."""

    kind: str
    title: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one part of a file came to."""

    heads: tuple[_Head, ...]
    objects: tuple[Object | None, ...]
    policies: tuple[Policy, ...]
    size: int
    """In YAML nodes."""
    refers: bool
    """Whether other objects would make other policies."""
    unsupported: tuple[PolicyError, ...] = ()
    """What of its policies l7d would not enforce."""


@dataclass(slots=True)
class _Draft:
    """A part of a file while it is read."""

    place: _Place
    reading: _Reading
    text: str = ""
    """What it says; not kept of what is known to refer to nothing."""
    waiting: tuple[Document, ...] | None = None
    """Its documents, if their policies refer to objects while not all of these are known."""


class Loader:
    """Reads the same files again and again. Remembers no more than the last reading that was good."""

    def __init__(self, told: frozenset[str] = frozenset()) -> None:
        """`told`: see `capability.unsupported`."""
        self._told = told
        self._readings: dict[_Place, _Reading] = {}
        self._files: dict[tuple[str, bytes], tuple[_Place, ...]] = {}
        """The parts of whole files that refer to nothing: such a file, if it is the same, need not be taken apart."""
        self._objects = Objects()

    def load(self, sources: Sequence[Source], cluster: Sequence[Source] = ()) -> tuple[Policy, ...]:
        """The policies of all sources, in their order. Raises PolicyErrors with everything that is wrong in any.

        What policies refer to (CIDR groups, services) may stand beside them, or in files of `cluster`, of which nothing
        else is read. Policies of this version that l7d cannot enforce are told by `l7policy.capability`.
        """
        reader = Reader()
        known = Objects()
        for source in cluster:
            for node in _whole(reader, source):
                for document in envelope.objects(reader, node):
                    known.add(objects.read(reader, document))
        files = [(source.path, _digest(source.text)) for source in sources]
        read = [self._drafts(reader, file, source) for file, source in zip(files, sources, strict=True)]
        drafts = [draft for found in read for draft in found]
        for draft in drafts:
            for found in draft.reading.objects:
                known.add(found)
        # Only now: a policy may refer to what stands behind it, or in another file.
        for draft in drafts:
            if draft.reading.refers and (draft.waiting is not None or known != self._objects):
                policies = _settled(reader, draft, known)
                unsupported = capability.unsupported(policies, self._told)
                draft.reading = replace(draft.reading, policies=policies, unsupported=unsupported)
        _check_unique(reader, drafts)
        if reader.errors:
            raise PolicyErrors(reader.errors)
        self._readings = {draft.place: draft.reading for draft in drafts}
        self._files = {
            file: tuple(draft.place for draft in found)
            for file, found in zip(files, read, strict=True)
            if not any(draft.reading.refers for draft in found)
        }
        self._objects = known
        return tuple(policy for draft in drafts for policy in draft.reading.policies)

    def load_enforced(self, sources: Sequence[Source]) -> tuple[Policy, ...]:
        """`load`, and refused if this version of l7d would enforce any of it by halves. For whoever enforces."""
        policies = self.load(sources)
        if errors := [error for reading in self._readings.values() for error in reading.unsupported]:
            raise PolicyErrors(errors)
        return policies

    def _drafts(self, reader: Reader, file: tuple[str, bytes], source: Source) -> list[_Draft]:
        """What the parts of a file come to; of a file that is not YAML nothing, but its mistake."""
        if (places := self._files.get(file)) is not None:
            return [_Draft(place, self._readings[place]) for place in places]
        found: list[_Draft] = []
        mistakes = Reader()
        size = 0
        try:
            parts = yamltree.parts(source.path, source.text)
            for part in parts:
                try:
                    found.append(self._draft(mistakes, source.path, part))
                except PolicyErrors:
                    if len(parts) > 1:  # The whole knows better what is broken: a quote may have been cut in two.
                        yamltree.parse(source.path, source.text)
                    raise
                size += found[-1].reading.size
                if size > yamltree.MAX_NODES:
                    reader.errors.append(yamltree.too_many(source.path, part.line))
                    return []
        except PolicyErrors as broken:
            reader.errors.extend(broken.errors)
            return []
        reader.errors.extend(mistakes.errors)
        return found

    def _draft(self, reader: Reader, path: str, part: Part) -> _Draft:
        place = _Place(path, part.line, _digest(part.text))
        known = self._readings.get(place)
        return _read(reader, place, part.text, self._told) if known is None else _Draft(place, known, part.text)


def load(sources: Sequence[Source], cluster: Sequence[Source] = ()) -> tuple[Policy, ...]:
    """`Loader.load` of a reader without memories."""
    return Loader().load(sources, cluster)


def load_enforced(sources: Sequence[Source]) -> tuple[Policy, ...]:
    """`Loader.load_enforced` of a reader without memories."""
    return Loader().load_enforced(sources)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _read(reader: Reader, place: _Place, text: str, told: frozenset[str]) -> _Draft:
    nodes = yamltree.parse(place.path, text, place.line)
    documents = tuple(document for node in nodes for document in envelope.documents(reader, node))
    heads = tuple(_Head(one.kind, one.title, one.node.line, one.node.column) for one in documents if one.name)
    found = tuple(objects.read(reader, one) for one in documents if one.kind in envelope.OBJECTS)
    size = sum(node.size for node in nodes)
    inside = Reader()
    try:
        policies = tuple(_policies(inside, documents, Objects(settled=False)))
    except Unsettled:
        return _Draft(place, _Reading(heads, found, (), size, True), text, documents)
    reader.errors.extend(inside.errors)
    unsupported = capability.unsupported(policies, told)
    return _Draft(place, _Reading(heads, found, policies, size, False, unsupported), text)


def _settled(reader: Reader, draft: _Draft, known: Objects) -> tuple[Policy, ...]:
    """The policies of documents that refer to objects, now that all are known."""
    documents = draft.waiting
    if documents is None:
        # Read before, and without mistakes, so that those of its outside are none.
        nodes = yamltree.parse(draft.place.path, draft.text, draft.place.line)
        documents = tuple(document for node in nodes for document in envelope.documents(Reader(), node))
    draft.waiting = None
    return tuple(_policies(reader, documents, known))


def _whole(reader: Reader, source: Source) -> Iterator[Node]:
    try:
        yield from yamltree.parse(source.path, source.text)
    except PolicyErrors as broken:
        reader.errors.extend(broken.errors)


def _policies(reader: Reader, documents: Iterable[Document], known: Objects) -> Iterator[Policy]:
    for document in documents:
        match document.kind:
            case kind if kind in envelope.OBJECTS:
                continue
            case envelope.NETWORK_POLICY:
                yield from kubernetes.policies(reader, document)
            case envelope.CNP | envelope.CCNP:
                yield from cilium.policies(reader, document, known)
            case _:
                yield from adminpolicy.policies(reader, document)


def _check_unique(reader: Reader, drafts: Iterable[_Draft]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for draft in drafts:
        for head in draft.reading.heads:
            here = f"{draft.place.path}:{head.line}"
            first = seen.setdefault((head.kind, head.title), here)
            if first is not here:
                message = f"{head.kind} {head.title.rpartition(':')[2]} is defined twice; first at {first}"
                hint = "rename or remove one of them"
                reader.errors.append(PolicyError(draft.place.path, head.line, head.column, message, hint))
