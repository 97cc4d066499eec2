# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.policyfiles."""

import os
from pathlib import Path

import pytest

from l7ctl.policyfiles import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.yaml", "a.yml", "notes.txt"):
        (tmp_path / name).write_text(f"# {name}")
    return tmp_path


def test_a_folder_stands_for_its_yaml_files_in_name_order(folder: Path) -> None:
    assert [Path(source.path).name for source in read([str(folder)]).sources] == ["a.yml", "b.yaml"]


def test_a_file_is_read_whatever_its_name_and_only_once(folder: Path) -> None:
    files = read([str(folder / "notes.txt"), str(folder), str(folder / "b.yaml")])
    assert [source.text for source in files.sources] == ["# notes.txt", "# a.yml", "# b.yaml"]


def test_a_folder_without_policies_is_told(tmp_path: Path) -> None:
    assert read([str(tmp_path)]).empty == (str(tmp_path),)


def test_what_cannot_be_read_does_not_hide_the_rest(folder: Path) -> None:
    (folder / "latin.yaml").write_bytes(b"# caf\xe9")
    (folder / "gone.yaml").symlink_to("nowhere")
    files = read([str(folder), "/no/such/file.yaml"])
    assert len(files.sources) == 2
    assert [(Path(problem.path).name, problem.message) for problem in files.problems] == [
        ("gone.yaml", "cannot be read: No such file or directory"),
        ("latin.yaml", "is not UTF-8: unexpected end of data at byte 5"),
        ("file.yaml", "cannot be read: No such file or directory"),
    ]


def test_what_never_ends_in_a_folder_is_a_problem_beside_the_others(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    files = read([str(folder), str(folder / "zero.yaml")])
    assert len(files.sources) == 2
    assert [(Path(problem.path).name, problem.message) for problem in files.problems] == [
        ("pipe.yaml", "cannot be read: Not a regular file"),
        ("zero.yaml", "cannot be read: Not a regular file"),
        ("zero.yaml", "cannot be read: Larger than 32 MiB"),
    ]
