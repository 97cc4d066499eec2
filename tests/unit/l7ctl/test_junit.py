# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.junit."""

from xml.etree import ElementTree

from l7ctl import junit
from l7policy import cases, question
from l7policy.cases import Outcome
from l7policy.cluster import Cluster
from l7policy.policydoc import Source

CASES = """\
- {from: app=a, to: app=b, port: 80, http: GET /, expect: allow}
- {name: "odd \\x01 <name>", from: app=a, to: app=b, port: 80, expect: deny}
"""


def outcomes() -> tuple[Outcome, ...]:
    found = cases.load(Source("c.yaml", CASES.replace("\\x01", "")))
    return cases.run(found.cases, (), lambda end: question.side(end, Cluster()), lambda request: request)


def test_a_suite_for_each_file_and_a_failure_for_each_that_failed() -> None:
    root = ElementTree.fromstring(junit.document([("c.yaml", outcomes()), ("d.yaml", ())]))  # noqa: S314 - our own
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root] == [
        ("c.yaml", "2", "1"),
        ("d.yaml", "0", "0"),
    ]
    passed, failed = root[0]
    assert (passed.get("name"), passed.get("file"), passed.get("line"), len(passed)) == (
        "app=a -> app=b 80 GET /",
        "c.yaml",
        "1",
        0,
    )
    assert failed[0].tag == "failure"
    assert failed[0].get("message") == "expected deny, got allow"
