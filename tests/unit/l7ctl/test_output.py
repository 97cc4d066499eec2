# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.output."""

import io
import sys
from collections.abc import Callable

import pytest

from l7ctl import output
from l7observe.columns import Columns, key

THINGS = Columns(key("name", "", text=str), key("state", ""), key("bytes", "", justify="right"))


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], str]:
    """What is printed when standard output is a terminal of 40 columns."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def printed(draw: Callable[[], None]) -> str:
        fake = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", fake)
            draw()
        return fake.getvalue()

    return printed


def test_columns_are_aligned_without_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(THINGS, [{"name": "a", "state": "ready", "bytes": 1}, {"name": "bbb", "state": "x", "bytes": 100}])
    assert capsys.readouterr().out == (
        "NAME  STATE  BYTES\n"
        "a     ready      1\n"
        "bbb   x        100\n"
    )  # fmt: skip


def test_away_from_a_terminal_no_row_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(THINGS, [{"name": "x" * 5000, "state": "[bold]not markup[/bold]", "bytes": 1}])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "[bold]not markup[/bold]" in lines[1]


def test_on_a_terminal_states_have_colours_and_rows_are_folded(
    on_terminal: Callable[[Callable[[], None]], str],
) -> None:
    shown = on_terminal(lambda: output.table(THINGS, [{"name": "x" * 60, "state": "down", "bytes": 1}]))
    assert "\x1b[1;31mdown" in shown
    assert len(shown.splitlines()) > 2


def test_no_color_means_no_escape_at_all(
    on_terminal: Callable[[Callable[[], None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    def draw() -> None:
        output.table(THINGS, [{"name": "a", "state": "down", "bytes": 1}])
        output.line(output.styled("text", "red"))

    assert "\x1b" not in on_terminal(draw)


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "policy", "1 policy"), (2, "policy", "2 policies"), (0, "endpoint", "0 endpoints"), (1, "file", "1 file")],
)
def test_nouns_are_counted(number: int, noun: str, text: str) -> None:
    assert output.count(number, noun) == text


def test_programs_get_only_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    output.value({"text": "é\u202e"}, "json")
    output.value({"text": "é\u202e"}, "yaml")
    assert capsys.readouterr().out.isascii()
