# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.findings."""

import re

from l7policy.findings import KINDS, Finding, Severity, finding, finding_at
from l7policy.model import Origin
from l7policy.yamltree import parse


def test_a_finding_is_where_the_text_or_the_rule_is() -> None:
    (node,) = parse("p.yaml", "a: b")
    assert finding("wide-name", node.fields["a"], "m", "h") == Finding(
        "p.yaml", 1, 4, "wide-name", Severity.WARNING, "m", "h"
    )
    found = finding_at("wide-name", Origin("p", "egress[0]", "p.yaml", 3, 7), "m")
    assert (found.path, found.line, found.column) == ("p.yaml", 3, 7)


def test_identifiers_are_words_that_everybody_can_filter_by() -> None:
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and kind.text for name, kind in KINDS.items())
