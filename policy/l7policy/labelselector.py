# SPDX-License-Identifier: Apache-2.0
"""matchLabels and matchExpressions, as CiliumNetworkPolicy and NetworkPolicy both write them, as requirements.

What is added to a selector (its namespace) differs between the dialects and is theirs.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Final

from l7policy import labels
from l7policy.errors import did_you_mean
from l7policy.model import Operator, Requirement
from l7policy.reader import Fields, Reader, fields
from l7policy.yamltree import Node

_SELECTOR: Final = fields("matchLabels matchExpressions")
_EXPRESSION: Final = fields("key operator values", required="key operator")
_WITH_VALUES: Final = frozenset({Operator.IN, Operator.NOT_IN})

KeyCheck = Callable[[str], str]
"""Takes a key as written, returns it as ``source:key``. Raises ValueError."""


def requirements(reader: Reader, node: Node, what: str, key_check: KeyCheck) -> tuple[Requirement, ...]:
    """All conditions of a label selector; none of them for ``{}``. Sorted, so that equal selectors are equal values."""
    found = reader.mapping(node, what, _SELECTOR)
    conditions: set[Requirement] = set()
    if "matchLabels" in found:
        conditions |= _match_labels(reader, found["matchLabels"], key_check)
    if "matchExpressions" in found:
        for element in reader.sequence(found["matchExpressions"], "matchExpressions"):
            if (condition := _expression(reader, element, key_check)) is not None:
                conditions.add(condition)
    return tuple(sorted(conditions, key=lambda condition: (condition.key, condition.operator, condition.values)))


@functools.lru_cache(maxsize=1 << 14)
def _is(key: str, value: str) -> Requirement:
    """The same for all policies, which say the same of each other over and over."""
    return Requirement(key, Operator.IN, (value,))


def _match_labels(reader: Reader, node: Node, key_check: KeyCheck) -> set[Requirement]:
    conditions = set()
    any_key = Fields(supported=frozenset(node.fields))
    for written, value_node in reader.mapping(node, "matchLabels", any_key).items():
        key = reader.attempt(node.keys[written], "matchLabels", partial(key_check, written))
        value = reader.checked(value_node, f"label {written[:80]}", labels.check_value)
        if key is not None and value is not None:
            conditions.add(_is(key, value))
    return conditions


def _expression(reader: Reader, node: Node, key_check: KeyCheck) -> Requirement | None:
    found = reader.mapping(node, "an element of matchExpressions", _EXPRESSION)
    key = reader.checked(found["key"], "key", key_check) if "key" in found else None
    operator = reader.checked(found["operator"], "operator", _operator) if "operator" in found else None
    values: tuple[str, ...] = ()
    if "values" in found:
        checked = [
            reader.checked(value, "a value", labels.check_value) for value in reader.sequence(found["values"], "values")
        ]
        values = tuple(sorted({value for value in checked if value is not None}))
    if key is None or operator is None:
        return None
    if operator in _WITH_VALUES and not values:
        reader.fail(found.get("values", node), f"operator {operator} needs values")
    elif operator not in _WITH_VALUES and values:
        reader.fail(found["values"], f"operator {operator} takes no values")
    return Requirement(key, operator, values)


def _operator(text: str) -> Operator:
    try:
        return Operator(text)
    except ValueError:
        raise ValueError(f"unknown operator {text[:80]!r}; {did_you_mean(text, [*Operator])}") from None
