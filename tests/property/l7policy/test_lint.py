# SPDX-License-Identifier: Apache-2.0
"""Properties of l7policy.lint: any YAML has warnings or none, each at a place in it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from l7policy.findings import KINDS
from l7policy.lint import lint
from l7policy.policydoc import Source

KEYS = st.sampled_from(
    [
        "spec",
        "specs",
        "egress",
        "toPorts",
        "rules",
        "http",
        "dns",
        "headers",
        "headerMatches",
        "path",
        "host",
        "method",
        "toFQDNs",
        "matchName",
        "matchPattern",
        "serverNames",
        "domainNames",
        "items",
    ]
)
SCALARS = st.sampled_from(
    ["/a", "^/a|", "[", "\\", "a.b", "*.co.uk", "*", "**", "", ".", "[]a.]", "*.", "..", "a*.com"]
)
VALUES: Any = st.recursive(
    SCALARS | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(st.fixed_dictionaries({"spec": VALUES}) | VALUES)
def test_any_document_is_looked_at(document: Any) -> None:
    for found in lint([Source("p.yaml", json.dumps(document))], ()):
        assert found.rule in KINDS
        assert found.line == 1
        assert found.column > 0
