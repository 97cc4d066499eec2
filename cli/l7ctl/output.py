# SPDX-License-Identifier: Apache-2.0
"""Draws what commands found: a table for people, JSON or YAML for programs.

Colour only on a terminal and without NO_COLOR. Away from a terminal no line is folded or cut, so that `grep` and `awk`
see whole rows. What a program reads comes from the same columns as what a person sees, and always holds all of them.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
import yaml
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from l7observe.columns import Columns

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

FORMATS: Final = ("table", "wide", "json", "yaml")
_UNFOLDED: Final = 1 << 16


def output_option(formats: Sequence[str] = FORMATS) -> Callable[[F], F]:
    """The `-o` option of a command. The first format is the default."""
    return click.option(
        "-o", "--output", "output", type=click.Choice(formats), default=formats[0], show_default=True, help="Format."
    )


def items(columns: Columns[T], things: Iterable[T], output: str) -> None:
    """Prints a list."""
    if output in ("table", "wide"):
        table(columns, things, wide=output == "wide")
    else:
        value(columns.records(things), output)


def value(data: object, output: str) -> None:
    """Prints plain values for programs."""
    if output == "yaml":
        click.echo(yaml.safe_dump(data, sort_keys=False), nl=False)
    else:
        # ASCII: no text of a workload's making reaches the terminal as it is.
        click.echo(json.dumps(data, indent=2))


def table(columns: Columns[T], things: Iterable[T], wide: bool = False, indent: int = 0, *, err: bool = False) -> None:
    """Prints rows for people; `err`: beside what a program reads, on standard error."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns.visible(wide):
        drawn.add_column(column.header, justify=column.justify, overflow="fold")
    for row in columns.rows(things, wide):
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(
        color_system="auto" if coloured() else None,
        force_terminal=coloured(),
        width=None if terminal else _UNFOLDED,
        highlight=False,
    )
    with console.capture() as capture:
        console.print(Padding(drawn, (0, 0, 0, indent)))
    for line in capture.get().splitlines():
        click.echo(line.rstrip(), color=True, err=err)


def coloured() -> bool:
    """Whether to colour: on a terminal, unless the person asked not to (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, colour: str) -> str:
    """The text in a colour, if colours are wanted."""
    return click.style(text, fg=colour) if coloured() else text


def line(text: str) -> None:
    """Prints a line for people; the text is printable and perhaps styled."""
    click.echo(text, color=coloured())


def count(number: int, noun: str) -> str:
    """``1 policy``, ``2 policies``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def changes(answer: Mapping[str, Any]) -> None:
    """Prints which policies were added, removed and modified."""
    for sign, key, colour in (("+", "added", "green"), ("-", "removed", "red"), ("~", "modified", "yellow")):
        for name in answer.get(key) or ():
            line(styled(f"  {sign} {name}", colour))


_STYLES: Final = {
    "ready": "green",
    "ok": "green",
    "allow": "green",
    "redirect": "cyan",
    "starting": "yellow",
    "waiting": "yellow",
    "optional": "yellow",
    "down": "bold red",
    "error": "bold red",
    "missing": "bold red",
    "deny": "red",
    "WRONG": "bold red",
}
