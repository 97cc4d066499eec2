# SPDX-License-Identifier: Apache-2.0
"""From policy files to policies: all of them, or every mistake in any of them.

The entry to the YAML side of this package. May not read files or know what a policy is applied to.

Failure verdict: `PolicyErrors`; then there are no policies at all, so nothing is ever half-applied.
"""

from collections.abc import Sequence

from l7policy import cilium, envelope, kubernetes, yamltree
from l7policy.envelope import NETWORK_POLICY, Document
from l7policy.errors import PolicyErrors
from l7policy.policydoc import Policy, Source
from l7policy.reader import Reader

__all__ = ["Policy", "Source", "load"]


def load(sources: Sequence[Source]) -> tuple[Policy, ...]:
    """The policies of all sources, in their order. Raises PolicyErrors with everything that is wrong in any of them."""
    reader = Reader()
    policies: list[Policy] = []
    seen: dict[tuple[str, str], Document] = {}
    for source in sources:
        try:
            nodes = yamltree.parse(source.path, source.text)
        except PolicyErrors as broken:
            reader.errors.extend(broken.errors)
            continue
        for node in nodes:
            for document in envelope.documents(reader, node):
                _check_new(reader, seen, document)
                read = kubernetes.policies if document.kind == NETWORK_POLICY else cilium.policies
                policies.extend(read(reader, document))
    if reader.errors:
        raise PolicyErrors(reader.errors)
    return tuple(policies)


def _check_new(reader: Reader, seen: dict[tuple[str, str], Document], document: Document) -> None:
    first = seen.setdefault((document.kind, document.title), document)
    if first is not document and document.name:
        reader.fail(
            document.node,
            f"{document.kind} {document.title.removeprefix('networkpolicy:')} is defined twice;"
            f" first at {first.node.path}:{first.node.line}",
            "rename or remove one of them",
        )
