# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.sarif: what SARIF 2.1.0 asks of a log (sections 3.13 to 3.30)."""

from typing import Any

from l7ctl import sarif
from l7policy.errors import PolicyError
from l7policy.findings import KINDS, Finding, Severity


def log() -> dict[str, Any]:
    problems = [PolicyError("a b.yaml", 0, 0, "cannot be read"), PolicyError("/etc/l7/p.yaml", 3, 0, "bad", "good")]
    warning = Finding("p.yaml", 7, 5, "wide-name", Severity.WARNING, "wide", "narrow")
    return sarif.log(problems, [warning])


def test_a_log_has_its_version_its_schema_and_one_run() -> None:
    found = log()
    assert (found["version"], found["$schema"].endswith("sarif-schema-2.1.0.json"), len(found["runs"])) == (
        "2.1.0",
        True,
        1,
    )
    driver = found["runs"][0]["tool"]["driver"]
    assert driver["name"] == "l7ctl"
    assert [rule["id"] for rule in driver["rules"]] == ["invalid-policy", *KINDS]
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])


def test_a_result_points_to_its_rule_and_its_place() -> None:
    run = log()["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
    places = [result["locations"][0]["physicalLocation"] for result in run["results"]]
    assert places == [
        {"artifactLocation": {"uri": "a%20b.yaml"}},
        {"artifactLocation": {"uri": "file:///etc/l7/p.yaml"}, "region": {"startLine": 3, "startColumn": 1}},
        {"artifactLocation": {"uri": "p.yaml"}, "region": {"startLine": 7, "startColumn": 5}},
    ]
