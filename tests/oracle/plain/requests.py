# SPDX-License-Identifier: Apache-2.0
"""An HTTP request against rules.http: whether it passes, and what the rules do to its headers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """`headers`: names as they are sent, values."""

    method: str
    path: str
    host: str = "shop.example"
    headers: tuple[tuple[str, str], ...] = ()

    def value(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return ",".join(found) if found else None


@dataclass(frozen=True)
class Outcome:
    """`edits`: action, name, value. `missing`, `rejected`: what a record shows."""

    passes: bool
    edits: frozenset[tuple[str, str, str]] = frozenset()
    missing: frozenset[str] = frozenset()
    rejected: frozenset[str] = frozenset()


def outcome(rules: list[tuple[Document, str]], request: Request, secrets: Mapping[tuple[str, str], str]) -> Outcome:
    """All rules have their say, each with the namespace its secrets are in; the request passes if one matches."""
    matching = [found for rule, of in rules if (found := _rule(rule, of, request, secrets)) is not None]
    return Outcome(
        bool(matching),
        frozenset(edit for found in matching for edit in found.edits),
        frozenset(text for found in matching for text in found.missing),
        frozenset(text for found in matching for text in found.rejected),
    )


def _rule(rule: Document, namespace: str, request: Request, secrets: Mapping[tuple[str, str], str]) -> Outcome | None:
    """What a rule does to a request; None: it does not match."""
    for name in ("method", "path", "host"):
        if name in rule and re.fullmatch(f"(?:{rule[name]})", getattr(request, name)) is None:
            return None
    edits: set[tuple[str, str, str]] = set()
    missing: set[str] = set()
    rejected: set[str] = set()
    plain = [dict(zip(("name", "value"), text.split(": "), strict=False)) for text in rule.get("headers", [])]
    for match in [*plain, *rule.get("headerMatches", [])]:
        name, value, action = match["name"], match.get("value"), match.get("mismatch", "")
        if "secret" in match:
            value = secrets.get(
                (match["secret"].get("namespace", namespace or "default"), match["secret"]["name"]), value
            )
            if value is None:
                return None
        sent = request.value(name)
        if sent is not None and value in (None, sent):
            continue
        if action == "":
            return None
        shown = "[redacted]" if "secret" in match else value
        if action in ("LOG", "ADD", "REPLACE"):
            missing.add(name if value is None else f"{name}: {shown}")
        if action in ("ADD", "REPLACE"):
            edits.add((action, name, value or ""))
        if action in ("DELETE", "REPLACE") and sent is not None:
            rejected.add(f"{name}: {'[redacted]' if 'secret' in match else sent}")
        if action == "DELETE" and sent is not None:
            edits.add((action, name, ""))
    return Outcome(True, frozenset(edits), frozenset(missing), frozenset(rejected))


def forwarded(request: Request, outcome: Outcome) -> dict[str, list[str]] | None:
    """Values by lower-case name as the server gets them; None where two edits of one header leave their order open."""
    names = [name.lower() for _, name, _ in outcome.edits]
    if len(set(names)) < len(names):
        return None
    found: dict[str, list[str]] = {}
    for name, value in request.headers:
        found.setdefault(name.lower(), []).append(value)
    for action, name, value in outcome.edits:
        kept = found.pop(name.lower(), [])
        if action != "DELETE":
            found[name.lower()] = [*(kept if action == "ADD" else []), value]
    return found
