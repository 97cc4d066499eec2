# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.policytest."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

Run = Callable[..., Result]

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toCIDR: [192.0.2.0/24]
"""
CASES = """\
policies: p.yaml
cases:
  - {from: app=web, to: 192.0.2.1, port: 80, expect: allow}
  - {name: elsewhere, from: app=web, to: 203.0.113.1, port: 80, expect: RESULT}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "p.yaml").write_text(POLICY)
    return tmp_path / "cases.yaml"


def test_cases_that_pass_are_a_table_and_exit_code_zero(run: Run, file: Path) -> None:
    file.write_text(CASES.replace("RESULT", "deny"))
    result = run("rules", "test", str(file))
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["RESULT", "CASE", "EXPECTED", "GOT"],
        ["ok", "app=web", "->", "192.0.2.1", "80", "allow", "allow"],
        ["ok", "elsewhere", "deny", "deny"],
        [],
        ["2", "cases,", "0", "failed"],
    ]


def test_a_case_that_fails_has_its_place_and_exit_code_one(run: Run, file: Path, tmp_path: Path) -> None:
    file.write_text(CASES.replace("RESULT", "allow"))
    result = run("rules", "test", str(file), "--junit", str(tmp_path / "report.xml"))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-4:] == [
        f"{file}:4:5: expected allow, got deny (POLICY_DENIED)",
        f"  nearest: add toCIDR 203.0.113.1/32 to default/web egress[0] ({tmp_path}/p.yaml:7)",
        "",
        "2 cases, 1 failed",
    ]
    suite = ElementTree.fromstring((tmp_path / "report.xml").read_bytes())[0]  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_json_holds_the_answers(run: Run, file: Path) -> None:
    file.write_text(CASES.replace("RESULT", "DROPPED"))
    found = json.loads(run("rules", "test", str(file), "-o", "json").stdout)
    assert [(one["passed"], one["got"], one["answer"]["verdict"]) for one in found] == [
        (True, "allow", "FORWARDED"),
        (True, "DROPPED", "DROPPED"),
    ]


def test_policies_named_on_the_command_line_come_first(run: Run, file: Path, tmp_path: Path) -> None:
    file.write_text(CASES.replace("RESULT", "allow"))
    other = tmp_path / "other.yaml"
    other.write_text(POLICY.replace("192.0.2.0/24", "0.0.0.0/0"))
    assert run("rules", "test", str(file), "-f", str(other)).exit_code == 0


@pytest.mark.parametrize("text", ["- {}\n", CASES.replace("RESULT", "no"), CASES.replace("p.yaml", "q.yaml")])
def test_an_invalid_file_exits_with_two(run: Run, file: Path, text: str) -> None:
    file.write_text(text)
    result = run("rules", "test", str(file))
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_question_that_makes_no_sense_exits_with_two_and_its_place(run: Run, file: Path, tmp_path: Path) -> None:
    file.write_text(CASES.replace("RESULT", "deny").replace("port: 80", "port: http"))
    result = run("rules", "test", str(file))
    assert result.exit_code == 2
    assert f"{file}:3:5: 192.0.2.1 has no port named 'http'" in result.stderr
    file.write_text(CASES.replace("RESULT", "deny"))
    assert run("rules", "test", str(file), "--junit", str(tmp_path / "no" / "r.xml")).exit_code == 2
