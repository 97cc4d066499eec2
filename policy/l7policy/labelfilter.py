# SPDX-License-Identifier: Apache-2.0
"""Which labels of a workload count for its identity (Cilium's ``labels`` option, pkg/labelsfilter).

Workloads whose counting labels are equal share one identity, so leaving out what changes with every Pod (hashes,
revisions) keeps the number of identities down. A policy that selects by a label left out selects nobody by it.

A rule is ``[!][source:]pattern``: a regular expression for the beginning of the key, ``!`` to leave such labels out.
Without a rule that takes labels in, all count that none leaves out; with one, only what it takes in, and a few that
policies cannot do without. Where both speak of a label, it counts if the longest match that takes it in is longer than
the shortest that leaves it out.

Failure verdict: ValueError for a rule that RE2 refuses, when the filter is made.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import re2

from l7policy.model import Labels
from l7policy.selectors import is_node

DEFAULT_RULES: Final = (
    r"reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    r"!pod-template-generation",
    r"!pod-template-hash",
    r"!controller-revision-hash",
    r"!controller-uid",
    r"!annotation.*",
    r"!etcd_node",
)
"""Cilium's own. Those that take labels in count only beside others that do, or against one that leaves out."""
_ALWAYS: Final = frozenset({"reserved", "cidr", "fqdn"})
"""Sources of labels that stand for what they are, not for what someone wrote."""


@dataclass(frozen=True, slots=True)
class _Prefix:
    source: str
    """Empty: of any."""
    ignore: bool
    pattern: "re2._Regexp"

    def matched(self, source: str, key: str) -> int:
        """How much of the key the pattern takes from its beginning, 0 if it does not match."""
        if self.source not in ("", source):
            return 0
        found = self.pattern.match(key)
        return 0 if found is None else len(found.group())


@functools.lru_cache(maxsize=16)
def _compiled(rules: tuple[str, ...]) -> tuple[tuple[_Prefix, ...], bool]:
    """The rules, those of Cilium among them, and whether one that was given takes labels in."""
    prefixes = [_prefix(rule) for rule in (*DEFAULT_RULES, *rules)]
    return tuple(prefixes), any(not rule.startswith("!") for rule in rules)


def _prefix(rule: str) -> _Prefix:
    text = rule.removeprefix("!")
    source, colon, pattern = text.partition(":")
    if not colon:
        source, pattern = "", text
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as refused:
        raise ValueError(f"label rule {rule[:80]!r}: {refused.args[0] if refused.args else 'refused'!r}") from None
    if not pattern:
        raise ValueError(f"label rule {rule[:80]!r} names no label")
    return _Prefix(source, rule.startswith("!"), compiled)


def check(rules: Iterable[str]) -> tuple[str, ...]:
    """The rules, if every one of them can be used. Raises ValueError."""
    checked = tuple(rules)
    _compiled(checked)
    return checked


@functools.lru_cache(maxsize=4096)
def identity_labels(labels: Labels, rules: tuple[str, ...] = ()) -> Labels:
    """Those of a workload's `labels` that count for its identity under `rules` beside Cilium's own. A node's all do."""
    if is_node(labels):
        return labels
    return frozenset(label for label in labels if _counts(label.partition("=")[0], rules))


@functools.lru_cache(maxsize=4096)
def _counts(full_key: str, rules: tuple[str, ...]) -> bool:
    """By ``source:key``: of those a cluster has hundreds, and label sets as many as workloads."""
    source, _, key = full_key.partition(":")
    if source in _ALWAYS:
        return True
    prefixes, selective = _compiled(rules)
    included, ignored = 0, 0
    for prefix in prefixes:
        length = prefix.matched(source, key)
        if not length:
            continue
        if prefix.ignore:
            ignored = min(ignored, length) if ignored else length
        else:
            included = max(included, length)
    return included > ignored or (not selective and not ignored)
