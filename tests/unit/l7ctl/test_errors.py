# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.errors."""

import pytest

from l7ctl.errors import ExitCode, Failure, describe


def test_a_failure_shows_the_sentence_the_problems_and_the_hint(capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"path": "a.yaml", "line": 3, "column": 5, "message": "unknown field", "hint": "did you mean b?"}
    Failure("the policies are invalid", "fix them", [problem]).show()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "l7ctl: the policies are invalid",
        "a.yaml:3:5: unknown field",
        "  hint: did you mean b?",
        "hint: fix them",
    ]


def test_a_problem_of_the_whole_file_has_no_line() -> None:
    assert describe({"path": "a.yaml", "line": 0, "column": 0, "message": "is not UTF-8"}) == "a.yaml: is not UTF-8"


def test_what_others_wrote_does_not_reach_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    Failure("\x1b[2J", "\x07").show()
    assert capsys.readouterr().err == "l7ctl: \\x1b[2J\nhint: \\x07\n"


def test_the_exit_codes_are_those_promised() -> None:
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 130]
