# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.columns."""

import pytest

from l7observe.columns import Column, Columns, cell, key, printable

THINGS = Columns(
    key("id", "Number", justify="right"),
    key("labels", "Labels"),
    key("netns", "Namespace", default=False),
    key("size", "Bytes", text=lambda value: f"{value} B"),
)
THING = {"id": 1, "labels": ["a", "b"], "netns": "blue", "size": 3}


def test_a_table_shows_the_default_columns() -> None:
    assert [column.header for column in THINGS.visible()] == ["ID", "LABELS", "SIZE"]
    assert THINGS.rows([THING]) == [["1", "a,b", "3 B"]]


def test_a_wide_table_shows_all() -> None:
    assert THINGS.rows([THING], wide=True) == [["1", "a,b", "blue", "3 B"]]


def test_programs_get_every_column_with_its_type() -> None:
    assert THINGS.records([THING]) == [THING]


def test_what_an_older_daemon_does_not_send_is_empty() -> None:
    assert THINGS.rows([{"id": 1}]) == [["1", "-", "-"]]
    assert THINGS.records([{"id": 1}]) == [{"id": 1, "labels": None, "netns": None, "size": None}]


def test_the_docs_name_every_column() -> None:
    assert THINGS.markdown().splitlines() == [
        "| Column | JSON | Meaning |",
        "|---|---|---|",
        "| ID | `id` | Number |",
        "| LABELS | `labels` | Labels |",
        "| NETNS | `netns` | Namespace |",
        "| SIZE | `size` | Bytes |",
    ]


def test_a_long_value_is_cut_to_the_columns_width() -> None:
    narrow: Columns[str] = Columns(Column("text", "TEXT", "", lambda text: text, width=5))
    assert narrow.rows(["12345", "123456"]) == [["12345"], ["1234…"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (0, "0"),
        (True, "yes"),
        (False, "no"),
        (("x", "y"), "x,y"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
    ],
)
def test_a_cell_is_written_for_people(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("naïve 漢字", "naïve 漢字"),
        ("two\nlines", "two\\nlines"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_nothing_a_terminal_obeys_is_printed(text: str, shown: str) -> None:
    assert printable(text) == shown
