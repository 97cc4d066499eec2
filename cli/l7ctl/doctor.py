# SPDX-License-Identifier: Apache-2.0
"""`l7ctl doctor`: what this machine must have, and how to get what it lacks. Needs no daemon."""

import click

from l7agent import preflight
from l7ctl.errors import ExitCode
from l7ctl.output import count, items, line, output_option
from l7ctl.session import Session, pass_session
from l7observe.columns import Column, Columns


def _state(check: preflight.Check) -> str:
    if check.ok:
        return "ok"
    return "missing" if check.required else "optional"


COLUMNS: Columns[preflight.Check] = Columns(
    Column("name", "CHECK", "What is needed", lambda check: check.name),
    Column("ok", "STATE", "ok, missing, or optional and not there", lambda check: check.ok),
    Column("found", "FOUND", "What this machine has", lambda check: check.found),
    Column("needed", "NEEDED", "What it must have", lambda check: check.needed),
    Column("remedy", "REMEDY", "How to get it", lambda check: check.remedy if not check.ok else ""),
    Column("required", "REQUIRED", "Whether l7d needs it to start", lambda check: check.required, default=False),
)
"""For programs. People see the state in place of two truths."""

FOR_PEOPLE: Columns[preflight.Check] = Columns(
    *(
        Column("state", column.header, column.description, _state) if column.name == "ok" else column
        for column in COLUMNS
    )
)


@click.command()
@output_option()
@pass_session
@click.pass_context
def doctor(context: click.Context, session: Session, output: str) -> None:
    """Check whether this machine can run l7gate.

    Exit code 2 if something required is missing.

    \b
    Examples:
      sudo l7ctl doctor
      l7ctl doctor -o json
    """
    found = preflight.checks(session.config)
    missing = sum(not check.ok and check.required for check in found)
    items(FOR_PEOPLE if output in ("table", "wide") else COLUMNS, found, output)
    if output in ("table", "wide"):
        line("\n" + (f"{count(missing, 'requirement')} missing" if missing else "ready to run l7d"))
    if missing:
        context.exit(ExitCode.USAGE)
