# SPDX-License-Identifier: Apache-2.0
"""Problems and warnings as SARIF 2.1.0 (OASIS), which code hosts show beside the lines."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from l7policy.errors import PolicyError
from l7policy.findings import KINDS, Finding

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
INVALID: Final = "invalid-policy"
_RULES: Final = (INVALID, *KINDS)


def log(problems: Iterable[PolicyError], warnings: Iterable[Finding]) -> dict[str, Any]:
    """One log with one run."""
    results = [
        *(_result(INVALID, "error", one.path, one.line, one.column, one.message, one.hint) for one in problems),
        *(_result(one.rule, one.severity, one.path, one.line, one.column, one.message, one.hint) for one in warnings),
    ]
    rules = [_rule(INVALID, "A policy that cannot be loaded", "error")]
    rules += [_rule(name, kind.text, kind.severity) for name, kind in KINDS.items()]
    driver = {"name": "l7ctl", "version": version("l7gate"), "rules": rules}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _rule(name: str, text: str, level: str) -> dict[str, Any]:
    return {
        "id": name,
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": str(level)},
    }


def _result(rule: str, level: str, path: str, line: int, column: int, message: str, hint: str) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(path)}}
    if line:
        place["region"] = {"startLine": line, "startColumn": max(column, 1)}
    return {
        "ruleId": rule,
        "ruleIndex": _RULES.index(rule),
        "level": str(level),
        "message": {"text": f"{message}; {hint}" if hint else message},
        "locations": [{"physicalLocation": place}],
    }


def _uri(path: str) -> str:
    """A relative path stays relative: the code host knows its root."""
    pure = PurePath(path)
    return pure.as_uri() if pure.is_absolute() else quote(pure.as_posix())
