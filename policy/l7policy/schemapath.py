# SPDX-License-Identifier: Apache-2.0
"""YAML as a value of a msgspec type, and from msgspec's words about a value to the place in the YAML it came from.

msgspec names the offending value by a path (``$.audit.backups``); a `yamltree.Node` knows where each value stood. Used
for files whose shape is a msgspec type: configuration and endpoints. Policies have a reader of their own.

Failure verdict: `PolicyErrors`, at the nearest place that is known.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from l7policy.errors import PolicyError, PolicyErrors, did_you_mean
from l7policy.yamltree import Node

T = TypeVar("T")

_WORDS: Final = re.compile(r"(?P<problem>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_GOT: Final = re.compile(r"got `(\w+)`")
_NAMES: Final = {
    "object": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}


def to_struct(node: Node, schema: type[T]) -> T:
    """The node as a value of a msgspec type. Raises PolicyErrors at the place that does not fit."""
    try:
        return msgspec.convert(node.value, schema)
    except msgspec.ValidationError as error:
        raise PolicyErrors([located(str(error), node, schema)]) from error


def located(words: str, node: Node, schema: Any) -> PolicyError:
    """The mistake that msgspec described in `words`, at the place below `node` that it is about."""
    found = _WORDS.fullmatch(words)
    problem, path, is_key = (found["problem"], found["path"] or "", bool(found["key"])) if found else (words, "", False)
    got = _GOT.search(problem)
    types = list(_alternatives(inspect.type_info(schema)))
    for step in _STEP.finditer(path):
        last = step.end() == len(path)
        types = [inner for outer in types for inner in _below(outer, step["name"])]
        node = _child(node, step, got[1] if got and last and not is_key else "")
    if unknown := _UNKNOWN.fullmatch(problem):
        owners = (node, *node.fields.values())  # Below a free-form mapping it is one of the values that has the field.
        key = next((owner.keys[unknown[1]] for owner in owners if unknown[1] in owner.keys), node)
        names = {
            field.encode_name for outer in types if isinstance(outer, inspect.StructType) for field in outer.fields
        }
        return key.error(f"unknown field {unknown[1]}", did_you_mean(unknown[1], names))
    text = re.sub(r"`(\w+)`", lambda name: _NAMES.get(name[1], name[1]), problem)
    hint = ""
    if problem.startswith("Invalid enum value"):
        choices = [str(value) for outer in types for value in _choices(outer)]
        text = f"{node.value!r} is none of the values it can have"
        hint = did_you_mean(str(node.value), choices)
    where = ".".join(filter(None, (step["name"] for step in _STEP.finditer(path))))
    text = text[0].lower() + text[1:]
    return node.error(f"{where}: {text}" if where else text, hint)


def _child(node: Node, step: re.Match[str], got: str) -> Node:
    if step["name"] is not None:
        return node.fields.get(step["name"], node)
    if step["index"] is not None:
        index = int(step["index"])
        return node.items[index] if index < len(node.items) else node
    # A value of a free-form mapping: msgspec does not say of which key, so take the first that looks like it.
    return next((child for child in node.fields.values() if _type_name(child) == got), node)


def _type_name(node: Node) -> str:
    names = {dict: "object", list: "array", str: "str", int: "int", float: "float", bool: "bool"}
    return names.get(type(node.value), "null")


def _alternatives(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        yield from _alternatives(info.type)
    elif isinstance(info, inspect.UnionType):
        for each in info.types:
            yield from _alternatives(each)
    else:
        yield info


def _choices(info: inspect.Type) -> Iterator[Any]:
    if isinstance(info, inspect.LiteralType):
        yield from info.values
    elif isinstance(info, inspect.EnumType):
        yield from (member.value for member in info.cls)


def _below(info: inspect.Type, name: str | None) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.StructType) and name is not None:
        for field in info.fields:
            if field.encode_name == name:
                yield from _alternatives(field.type)
    elif isinstance(info, inspect.CollectionType):
        yield from _alternatives(info.item_type)
    elif isinstance(info, inspect.DictType) and name is None:
        yield from _alternatives(info.value_type)
