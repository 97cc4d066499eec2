# SPDX-License-Identifier: Apache-2.0
"""Properties of l7policy.cases: any YAML is cases or PolicyErrors."""

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from l7policy import cases, question
from l7policy.cluster import Cluster
from l7policy.errors import PolicyErrors
from l7policy.policydoc import Source

VALUES: Any = st.sampled_from(
    ["app=a", "192.0.2.1", "80/TCP", "icmp:8", "GET /", "allow", "deny", "403", "a.example", "", "X: 1"]
)
CASES = st.dictionaries(
    st.sampled_from(["because", "dns", "expect", "from", "headers", "host", "http", "name", "port", "sni", "to"]),
    VALUES | st.lists(VALUES, max_size=2) | st.integers(0, 500) | st.none(),
)
FULL = st.fixed_dictionaries({"from": VALUES, "to": VALUES, "port": VALUES, "expect": VALUES})


@given(st.lists(CASES | st.tuples(FULL, CASES).map(lambda pair: {**pair[1], **pair[0]}), max_size=3) | VALUES)
def test_any_cases_are_judged_or_refused(document: Any) -> None:
    with contextlib.suppress(PolicyErrors):
        found = cases.load(Source("c.yaml", json.dumps(document)))
        outcomes = cases.run(found.cases, (), lambda text: question.side(text, Cluster()), lambda request: request)
        assert len(outcomes) == len(document)
        assert all(bool(outcome.problem) or outcome.got == outcome.case.expect for outcome in outcomes)
