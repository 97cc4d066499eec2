# SPDX-License-Identifier: Apache-2.0
"""From policy files to policies: all of them, or every mistake in any of them.

The entry to the YAML side of this package. May not read files or know what a policy is applied to.

Failure verdict: `PolicyErrors`; then there are no policies at all, so nothing is ever half-applied.
"""

from collections.abc import Iterator, Sequence

from l7policy import adminpolicy, capability, cilium, envelope, kubernetes, yamltree
from l7policy.envelope import Document
from l7policy.errors import PolicyErrors
from l7policy.objects import Objects
from l7policy.policydoc import Policy, Source
from l7policy.reader import Reader
from l7policy.yamltree import Node

__all__ = ["Policy", "Source", "load", "load_enforced"]


def load(sources: Sequence[Source], cluster: Sequence[Source] = ()) -> tuple[Policy, ...]:
    """The policies of all sources, in their order. Raises PolicyErrors with everything that is wrong in any of them.

    What policies refer to (CIDR groups, services) may stand beside them, or in files of `cluster`, of which nothing
    else is read. Policies of this version that l7d cannot enforce are told by `l7policy.capability`.
    """
    reader = Reader()
    objects = Objects()
    documents: list[Document] = []
    seen: dict[tuple[str, str], Document] = {}
    for node in _nodes(reader, cluster):
        for document in envelope.objects(reader, node):
            objects.add(reader, document)
    for node in _nodes(reader, sources):
        for document in envelope.documents(reader, node):
            _check_new(reader, seen, document)
            if document.kind in envelope.OBJECTS:
                objects.add(reader, document)
            else:
                documents.append(document)
    # Only now: a policy may refer to what stands behind it, or in another file.
    policies = [policy for document in documents for policy in _policies(reader, document, objects)]
    if reader.errors:
        raise PolicyErrors(reader.errors)
    return tuple(policies)


def load_enforced(sources: Sequence[Source]) -> tuple[Policy, ...]:
    """`load`, and refused if this version of l7d would enforce any of it by halves. For whoever enforces."""
    policies = load(sources)
    if errors := capability.unsupported(policies):
        raise PolicyErrors(errors)
    return policies


def _nodes(reader: Reader, sources: Sequence[Source]) -> Iterator[Node]:
    for source in sources:
        try:
            yield from yamltree.parse(source.path, source.text)
        except PolicyErrors as broken:
            reader.errors.extend(broken.errors)


def _policies(reader: Reader, document: Document, objects: Objects) -> Iterator[Policy]:
    match document.kind:
        case envelope.NETWORK_POLICY:
            return kubernetes.policies(reader, document)
        case envelope.CNP | envelope.CCNP:
            return cilium.policies(reader, document, objects)
        case _:
            return adminpolicy.policies(reader, document)


def _check_new(reader: Reader, seen: dict[tuple[str, str], Document], document: Document) -> None:
    first = seen.setdefault((document.kind, document.title), document)
    if first is not document and document.name:
        reader.fail(
            document.node,
            f"{document.kind} {document.title.rpartition(':')[2]} is defined twice;"
            f" first at {first.node.path}:{first.node.line}",
            "rename or remove one of them",
        )
