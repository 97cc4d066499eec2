# SPDX-License-Identifier: Apache-2.0
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import schemapath, yamltree
from l7policy.errors import PolicyErrors


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    a: int
    b: dict[str, str] | list[str] = []


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    a: list[Inner] = []
    b: Inner | None = None
    c: dict[str, Inner] = {}


FIELDS = st.sampled_from("abcd")
SHAPES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from("xy"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200)
@given(st.dictionaries(FIELDS, SHAPES, max_size=4))
def test_any_tree_becomes_a_struct_or_an_error_with_a_place(tree: Any) -> None:
    (node,) = yamltree.parse("f", json.dumps(tree, indent=1))
    try:
        found = schemapath.to_struct(node, Outer)
    except PolicyErrors as refused:
        (error,) = refused.errors
        assert 1 <= error.line <= json.dumps(tree, indent=1).count("\n") + 1
        assert error.column >= 1
        assert error.message
    else:
        assert isinstance(found, Outer)
