# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.run: what is refused before anything is started. The rest is in tests/integration/test_run.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--", "true"), 2, "give --policy FILE, or --audit"),
        (("--audit", "--", "no-such-command"), 127, "no-such-command: command not found"),
        (("--policy", "missing.yaml", "--", "true"), 2, "missing.yaml"),
        ((), 2, "Missing argument"),
    ],
)
def test_what_cannot_run_says_why(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run("--socket", str(tmp_path / "none.sock"), "run", *arguments)
    assert (result.exit_code, message in result.stderr) == (code, True)


def test_a_running_daemon_has_policies_of_its_own(l7ctl: Run, good: Path) -> None:
    result = l7ctl("run", "--policy", str(good), "--", "true")
    assert (result.exit_code, "where no l7d runs" in result.stderr) == (2, True)
