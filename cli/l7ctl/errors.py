# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, as a person sees it: one sentence, a hint, an exit code. Nothing else of l7ctl prints errors."""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import IO, Any

import click

from l7observe.columns import printable


class ExitCode(IntEnum):
    """What a script can rely on."""

    OK = 0
    FAILED = 1
    """Denied, failed or invalid."""
    USAGE = 2
    """Wrong use, or something that must be there is not."""
    UNREACHABLE = 3
    """The daemon does not answer."""
    INTERRUPTED = 130


class Failure(click.ClickException):
    """The command ends here. Printed as ``l7ctl: message`` and, below, the problems and the hint."""

    def __init__(
        self,
        message: str,
        hint: str = "",
        problems: Iterable[Mapping[str, Any]] = (),
        code: ExitCode = ExitCode.FAILED,
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.problems = tuple(problems)
        self.code = code

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints to standard error."""
        click.echo(f"l7ctl: {printable(self.message)}", file=file, err=file is None)
        for problem in self.problems:
            click.echo(describe(problem), file=file, err=file is None)
        if self.hint:
            click.echo(f"hint: {printable(self.hint)}", file=file, err=file is None)


class Unreachable(Failure):
    """No daemon answers at the socket."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, code=ExitCode.UNREACHABLE)


def describe(problem: Mapping[str, Any]) -> str:
    """A mistake in a file: ``file:line:column: message``, and its hint on a line of its own."""
    place = str(problem.get("path", ""))
    if problem.get("line"):
        place += f":{problem['line']}:{problem.get('column', 0)}"
    text = printable(f"{place}: {problem.get('message', '')}")
    hint = problem.get("hint")
    return f"{text}\n  hint: {printable(str(hint))}" if hint else text
