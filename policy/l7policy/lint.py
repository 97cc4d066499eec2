# SPDX-License-Identifier: Apache-2.0
"""Lint: warnings about policies that are legal and surely not meant, each with its place and a hint.

The entry to `l7policy.textlint` and `l7policy.rulelint`. May not judge, refuse or change anything. A text that is no
YAML has no warnings: `l7policy.documents` has its errors.
"""

from collections.abc import Collection, Sequence

from l7policy import rulelint, textlint, yamltree
from l7policy.cluster import Cluster
from l7policy.errors import PolicyErrors
from l7policy.findings import Finding
from l7policy.policydoc import Policy, Source


def lint(
    sources: Sequence[Source],
    policies: Sequence[Policy],
    cluster: Cluster | None = None,
    told: Collection[str] = (),
) -> tuple[Finding, ...]:
    """All warnings, in the order of files, lines and columns. `policies` are empty if the sources are invalid.

    `told`: what l7d's configuration tells (`capability.unsupported`).
    """
    found: set[Finding] = set(rulelint.warnings(policies, cluster, told))
    for source in sources:
        try:
            documents = yamltree.parse(source.path, source.text)
        except PolicyErrors:
            continue
        for document in documents:
            found.update(textlint.warnings(document))
    return tuple(sorted(found))
