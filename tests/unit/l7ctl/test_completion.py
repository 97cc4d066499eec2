# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.completion."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import Result


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete "), ("zsh", "#compdef l7ctl"), ("fish", "complete ")])
def test_every_shell_gets_its_script(run: Callable[..., Result], shell: str, word: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert word in result.stdout
    assert "_L7CTL_COMPLETE" in result.stdout


def test_the_script_is_one_that_bash_reads(run: Callable[..., Result]) -> None:
    script = run("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_commands_are_completed() -> None:
    environment = os.environ | {"_L7CTL_COMPLETE": "bash_complete", "COMP_WORDS": "l7ctl ru", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from l7ctl.main import main; main(prog_name='l7ctl')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "plain,rules" in done.stdout


def test_another_shell_is_wrong_use(run: Callable[..., Result]) -> None:
    assert run("completion", "tcsh").exit_code == 2
