# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.asking. Questions to the daemon are tested with l7ctl.explain."""

from pathlib import Path

import pytest

from l7ctl import asking
from l7ctl.asking import Known, Learnt
from l7ctl.errors import ExitCode, Failure
from l7policy.cluster import Cluster
from l7policy.errors import PolicyError, PolicyErrors
from l7policy.question import QuestionError


def test_an_address_has_the_names_it_was_learnt_under() -> None:
    learnt = tuple(Learnt(f"{name}.example", f"192.0.2.{n}/32", frozenset()) for n, name in ((1, "a"), (2, "b")))
    known = Known((), Cluster(), learnt)
    assert known.side("192.0.2.1").names == ("a.example",)
    assert known.side("192.0.2.3").names == ()
    assert known.side("app=a").names == ()


@pytest.mark.parametrize(
    "error",
    [QuestionError("x"), PolicyErrors([PolicyError("p.yaml", 1, 1, "x")]), Failure("x", code=ExitCode.FAILED)],
)
def test_what_prevents_an_answer_is_wrong_use(error: Exception) -> None:
    with pytest.raises(Failure) as caught, asking.usage():
        raise error
    assert caught.value.code == ExitCode.USAGE


def test_an_empty_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asking.sources([str(tmp_path)]) == ()
    assert capsys.readouterr().err == f"l7ctl: {tmp_path} holds no *.yaml or *.yml\n"
