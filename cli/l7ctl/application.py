# SPDX-License-Identifier: Apache-2.0
"""Application: the click group at the root, which loads commands when they are used and lets no traceback out.

It is the one place of l7ctl that catches every exception: a bug becomes one line and exit code 1, and `--debug` shows
the traceback.
"""

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import click

from l7ctl.errors import ExitCode, Failure


class Application(click.Group):
    """The root command. `commands_at` maps a command's name to ``module:attribute``."""

    def __init__(self, *args: Any, commands_at: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands_at = dict(commands_at)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of the table."""
        return list(self._commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports the command. Starting up costs what one command needs, and not what all do."""
        place = self._commands_at.get(cmd_name)
        if place is None:
            return None
        module, attribute = place.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), place  # noqa: S101 - a bug in the table
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs, and ends the process unless told otherwise."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        arguments = list(sys.argv[1:] if args is None else args)
        sys.exit(self._run(arguments, prog_name or "l7ctl", complete_var, extra))

    def _run(self, args: list[str], prog_name: str, complete_var: str | None, extra: dict[str, Any]) -> int:
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except Failure as error:
            error.show()
            return error.code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            return ExitCode.INTERRUPTED
        except BrokenPipeError:
            return ExitCode.FAILED
        except Exception as error:  # noqa: BLE001 - the one place, see above
            if "--debug" in args:
                traceback.print_exc()
            click.echo(f"l7ctl: internal error: {type(error).__name__}: {error}", err=True)
            if "--debug" not in args:
                click.echo("hint: `l7ctl --debug …` shows where; please report it", err=True)
            return ExitCode.FAILED
        return code if isinstance(code, int) else ExitCode.OK
