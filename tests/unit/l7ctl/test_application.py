# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.application."""

from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from l7ctl import status
from l7ctl.application import Application
from l7ctl.errors import ExitCode
from l7ctl.main import main


def _raising(error: BaseException) -> Application:
    @click.command()
    def broken() -> None:
        raise error

    application = Application(commands_at={})
    application.add_command(broken)
    application.get_command = lambda *_: broken  # type: ignore[method-assign]
    return application


def _run(error: BaseException, *options: str) -> Result:
    application = _raising(error)
    application.params.append(click.Option(["--debug"], is_flag=True, expose_value=False))
    return CliRunner().invoke(application, [*options, "broken"])


def test_a_bug_is_one_line_and_a_hint() -> None:
    result = _run(ZeroDivisionError("division by zero"))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "l7ctl: internal error: ZeroDivisionError: division by zero",
        "hint: `l7ctl --debug …` shows where; please report it",
    ]


def test_debug_shows_the_traceback_of_a_bug() -> None:
    result = _run(ZeroDivisionError("division by zero"), "--debug")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert "hint" not in result.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_quiet(error: BaseException) -> None:
    result = _run(error)
    assert result.exit_code == ExitCode.INTERRUPTED
    assert result.output.strip() == ""


def test_a_closed_pipe_is_quiet() -> None:
    result = _run(BrokenPipeError(32, "Broken pipe"))
    assert result.exit_code == 1
    assert result.output == ""


def test_an_answer_the_command_cannot_read_is_no_traceback(
    l7ctl: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("revision")

    monkeypatch.setattr(status, "_describe", broken)
    result = l7ctl("status")
    assert result.exit_code == 1
    assert result.stderr.startswith("l7ctl: internal error: KeyError: 'revision'\n")


def test_a_command_is_found_by_its_place() -> None:
    context = click.Context(main)
    assert main.get_command(context, "status") is status.status
    assert main.get_command(context, "nonsense") is None


def test_without_standalone_mode_the_caller_gets_the_value() -> None:
    assert main.main(["--version"], standalone_mode=False) == 0
