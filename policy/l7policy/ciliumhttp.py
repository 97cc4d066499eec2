# SPDX-License-Identifier: Apache-2.0
"""Cilium's ``rules.http``: what one request may be.

The semantics are Cilium 1.20's (pkg/policy/api/http.go). ``headers`` and ``headerMatches`` become the same thing.

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

from typing import Final

from l7policy import labels, scalars
from l7policy.errors import did_you_mean
from l7policy.headers import UNCHANGEABLE
from l7policy.model import HeaderMatch, HttpRule, Mismatch, Secret
from l7policy.reader import Reader, fields
from l7policy.yamltree import Kind, Node

_HTTP: Final = fields("method path host headers headerMatches")
_HEADER_MATCH: Final = fields("mismatch name secret value", required="name")
_SECRET: Final = fields("name namespace", required="name")
_ACTIONS: Final = frozenset(action.value for action in Mismatch if action.value)
_CHANGES: Final = frozenset({Mismatch.ADD, Mismatch.DELETE, Mismatch.REPLACE})
_NEED_A_VALUE: Final = frozenset({Mismatch.ADD, Mismatch.REPLACE})


def rules(reader: Reader, node: Node, namespace: str) -> tuple[HttpRule, ...]:
    """The whole list. `namespace` is where secrets are that name none."""
    elements = reader.sequence(node, "http")
    if not elements:
        reader.fail(node, "http is empty", "to allow and log every request write http: [{}]")
    return tuple(dict.fromkeys(_rule(reader, element, namespace) for element in elements))


def _rule(reader: Reader, node: Node, namespace: str) -> HttpRule:
    found = reader.mapping(node, "an HTTP rule", _HTTP)
    texts = {
        name: reader.checked(found[name], name, scalars.expression) or ""
        for name in ("method", "path", "host")
        if name in found
    }
    matches = [_header(reader, element) for element in _sequence(reader, found, "headers")]
    matches += [_header_match(reader, element, namespace) for element in _sequence(reader, found, "headerMatches")]
    return HttpRule(**texts, headers=tuple(dict.fromkeys(match for match in matches if match is not None)))


def _sequence(reader: Reader, found: dict[str, Node], name: str) -> tuple[Node, ...]:
    return reader.sequence(found[name], name) if name in found else ()


def _header(reader: Reader, node: Node) -> HeaderMatch | None:
    if node.kind is Kind.MAPPING and len(node.fields) == 1:
        ((name, value),) = node.fields.items()
        reader.fail(node, "header must be text, not a mapping", f'quote it: "{name[:40]}: {value.text[:40]}"')
        return None
    return reader.checked(node, "header", scalars.header)


def _header_match(reader: Reader, node: Node, namespace: str) -> HeaderMatch | None:
    found = reader.mapping(node, "an element of headerMatches", _HEADER_MATCH)
    name = reader.checked(found["name"], "name", scalars.header_name) if "name" in found else None
    value = reader.checked(found["value"], "value", scalars.header_value) if "value" in found else None
    secret = _secret(reader, found["secret"], namespace) if "secret" in found else None
    mismatch: Mismatch | None = Mismatch.FAIL
    if "mismatch" in found:
        mismatch = reader.checked(found["mismatch"], "mismatch", _mismatch)
    if mismatch in _NEED_A_VALUE and not {"value", "secret"} & node.fields.keys():
        reader.fail(node, f"mismatch {mismatch.value} needs a value or a secret to set")
    if name is None or mismatch is None:
        return None
    if mismatch in _CHANGES and name.lower().replace("_", "-") in UNCHANGEABLE:
        reader.fail(node, f"mismatch {mismatch.value} cannot change {name}: the request would be another one")
    return HeaderMatch(name, value, secret, mismatch)


def _secret(reader: Reader, node: Node, namespace: str) -> Secret | None:
    found = reader.mapping(node, "secret", _SECRET)
    name = reader.checked(found["name"], "name", _name) if "name" in found else None
    of: str | None = namespace or labels.DEFAULT_NAMESPACE
    if "namespace" in found:
        of = reader.checked(found["namespace"], "namespace", _namespace)
    return None if name is None or of is None else Secret(of, name)


def _name(text: str) -> str:
    if not labels.is_subdomain(text):
        raise ValueError(f"{text[:80]!r} cannot name a secret")
    return text


def _namespace(text: str) -> str:
    if not labels.is_namespace(text):
        raise ValueError(f"{text[:80]!r} cannot name a namespace")
    return text


def _mismatch(text: str) -> Mismatch:
    if text not in _ACTIONS:
        raise ValueError(f"unknown action {text[:80]!r}; {did_you_mean(text, _ACTIONS)}")
    return Mismatch(text)
