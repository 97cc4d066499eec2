# SPDX-License-Identifier: Apache-2.0
"""Warnings about what is written in one place: expressions, names, keys that slipped out of their rule.

Walks the YAML itself, whichever dialect it is, so that each warning has its line and column, and so that it also helps
with a file that is refused. What takes more than one rule to see is `l7policy.rulelint`'s.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from l7policy import suffixes
from l7policy.findings import Finding, finding
from l7policy.yamltree import Kind, Node

_SPECIAL: Final = re.compile(r"(?<!\\)(?:\\\\)*[.*+?()\[\]{}|$^]|\\[A-Za-z0-9]")
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_ANY_DOT: Final = re.compile(r"(?<!\\)((?:\\\\)*)\.(?![*+?{])")
_FULL: Final = frozenset({"method", "path", "host"})


def warnings(document: Node) -> Iterator[Finding]:
    """Warnings about one policy document, or a List of them."""
    for name, node in document.fields.items():
        if name in {"spec", "specs"}:
            yield from _walk(node)
        elif name == "items":
            for item in node.items:
                yield from warnings(item)


def _walk(node: Node) -> Iterator[Finding]:
    for item in node.items:
        yield from _walk(item)
    for name, child in node.fields.items():
        if name in {"headers", "headerMatches"}:
            yield finding(
                "misplaced-headers",
                node.keys[name],
                f"{name} stands outside of an http rule, where it limits nothing",
                "indent it below the rule it belongs to: - {method: …, path: …, " + name + ": […]}",
            )
        elif name == "http" and child.kind is Kind.SEQUENCE:
            yield from _http(child.items)
        elif name in {"dns", "toFQDNs"} and child.kind is Kind.SEQUENCE:
            for element in child.items:
                yield from _selector(element, every=name == "toFQDNs")
        elif name in {"serverNames", "domainNames"} and child.kind is Kind.SEQUENCE:
            for element in child.items:
                yield from _wide(element, element.text)
        else:
            yield from _walk(child)


def _http(rules: Sequence[Node]) -> Iterator[Finding]:
    for before, rule in zip((None, *rules), rules, strict=False):
        for name, value in rule.fields.items():
            if value.kind is not Kind.TEXT:
                continue
            if name == "path":
                yield from _path(value)
            elif name == "host":
                yield from _host(value)
        keys = rule.fields.keys()
        if (
            before is not None
            and keys
            and keys <= {"headers", "headerMatches"}
            and before.fields
            and not before.fields.keys() & keys
        ):
            name = next(iter(rule.fields))
            yield finding(
                "misplaced-headers",
                rule.keys[name],
                f"this http rule is {name} alone: it allows every request that has them, and the rule before it asks"
                " for none",
                "without its dash it belongs to the rule before it",
            )


def _path(node: Node) -> Iterator[Finding]:
    for expression in _alternatives(node.text):
        literal = expression.removeprefix("^")
        if not literal or literal.endswith("$") or _SPECIAL.search(literal):
            continue
        yield finding(
            "unanchored-path",
            node,
            f"path {expression} matches only itself: the whole path must match, with its query, so {literal}?x and"
            f" {literal.rstrip('/')}/x do not",
            rf"write {literal}(\?.*)? for any query, {literal.rstrip('/')}/.* for what is below, or {literal}$ if"
            " exactly this is meant",
        )
        return


def _alternatives(expression: str) -> Sequence[str]:
    """The parts between top-level bars; the whole where there are groups."""
    return (expression,) if set("()[]\\") & set(expression) else expression.split("|")


def _host(node: Node) -> Iterator[Finding]:
    outside = _CLASS.sub("", node.text)
    if _ANY_DOT.search(outside):
        escaped = _ANY_DOT.sub(r"\1\\.", node.text) if outside == node.text else node.text.replace(".", "\\.")
        yield finding(
            "unescaped-dot",
            node,
            f"host {node.text}: a dot matches any character, so other hosts match, too",
            f"write {escaped}",
        )


def _selector(node: Node, *, every: bool) -> Iterator[Finding]:
    for name in ("matchName", "matchPattern"):
        value = node.fields.get(name)
        if value is None or value.kind not in {Kind.TEXT, Kind.NULL}:
            continue
        if not value.text.strip() or value.kind is Kind.NULL:
            yield finding(
                "empty-pattern", value, f"{name} is empty and matches no name at all", 'write "*" for every name'
            )
        elif name == "matchPattern":
            if not value.text.strip("*. "):
                if every:
                    yield finding(
                        "wide-name",
                        value,
                        f"toFQDNs with {value.text} allows every address that any name was answered with",
                        "name the domains, or use toEntities: [world]",
                    )
            else:
                yield from _wide(value, value.text)


def _wide(node: Node, pattern: str) -> Iterator[Finding]:
    labels = pattern.strip().rstrip(".").lower().split(".")
    stars = next((index for index in range(len(labels), 0, -1) if "*" in labels[index - 1]), 0)
    suffix = ".".join(labels[stars:])
    # `img*.co.uk` is as wide: whoever wants that name registers it.
    if stars and suffix and suffixes.is_public(suffix):
        yield finding(
            "wide-name",
            node,
            f"{pattern} is wider than an organisation: anyone may have a name below {suffix}",
            f"name the domain: *.your-domain.{suffix}",
        )
