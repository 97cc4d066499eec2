# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.lint."""

from pathlib import Path

from l7policy import documents
from l7policy.lint import lint
from l7policy.policydoc import Source

EXAMPLES = Path(__file__).parents[3] / "examples" / "policies"
BROKEN = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {}
  egress:
    - toFQDNs: [{matchPattern: ""}, {matchPattern: "*.com"}]
"""


def test_the_examples_have_no_warnings() -> None:
    sources = [Source(str(path), path.read_text()) for path in sorted(EXAMPLES.glob("*.yaml"))]
    assert lint(sources, documents.load(sources)) == ()


def test_a_policy_that_is_refused_has_warnings_too_in_the_order_of_lines() -> None:
    found = lint([Source("z.yaml", BROKEN), Source("a.yaml", BROKEN), Source("y.yaml", "a: [")], ())
    assert [(one.path, one.line, one.rule) for one in found] == [
        ("a.yaml", 7, "empty-pattern"),
        ("a.yaml", 7, "wide-name"),
        ("z.yaml", 7, "empty-pattern"),
        ("z.yaml", 7, "wide-name"),
    ]
