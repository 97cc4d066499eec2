# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.tail."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from l7observe.logfile import LogFile
from l7observe.tail import BLOCK, Tail


def _lines(first: int, last: int) -> list[bytes]:
    return [b"%04d" % number for number in range(first, last)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[LogFile]:
    """Four lines a file, three backups."""
    file = LogFile(path, 20, 3)
    yield file
    file.close()


def _append(log: LogFile, first: int, last: int) -> None:
    log.append(deque(line + b"\n" for line in _lines(first, last)))


def test_the_last_lines_come_oldest_first(path: Path) -> None:
    path.write_bytes(b"a\nb\nc\n")
    tail = Tail(path)
    assert tail.last(2) == [b"b", b"c"]
    assert tail.last(0) == []
    assert tail.last(9) == [b"a", b"b", b"c"]
    tail.close()


def test_the_last_lines_reach_back_into_rotated_files(path: Path, log: LogFile) -> None:
    _append(log, 0, 14)
    tail = Tail(path)
    assert tail.last(7) == _lines(7, 14)
    assert tail.last(100) == _lines(0, 14)
    tail.close()


def test_only_lines_that_are_wanted_count(path: Path, log: LogFile) -> None:
    _append(log, 0, 14)
    tail = Tail(path)
    assert tail.last(2, lambda line: line.endswith(b"3")) == [b"0003", b"0013"]
    tail.close()


def test_lines_longer_than_a_block_are_whole(path: Path) -> None:
    long = [bytes([65 + number]) * (BLOCK + number) for number in range(3)]
    path.write_bytes(b"".join(line + b"\n" for line in long))
    tail = Tail(path)
    assert tail.last(3) == long
    tail.close()


def test_new_lines_are_polled_once(path: Path, log: LogFile) -> None:
    _append(log, 0, 1)
    tail = Tail(path)
    assert tail.poll() == []
    _append(log, 1, 3)
    assert tail.poll() == _lines(1, 3)
    assert tail.poll() == []
    tail.close()


def test_following_goes_on_across_one_rotation(path: Path, log: LogFile) -> None:
    _append(log, 0, 2)
    tail = Tail(path)
    _append(log, 2, 6)
    assert tail.poll() == _lines(2, 6)
    tail.close()


def test_following_goes_on_across_several_rotations_at_once(path: Path, log: LogFile) -> None:
    _append(log, 0, 2)
    tail = Tail(path)
    _append(log, 2, 14)
    assert tail.poll() == _lines(2, 14)
    tail.close()


def test_a_file_that_does_not_exist_yet_is_waited_for(path: Path, log: LogFile) -> None:
    tail = Tail(path)
    assert tail.last(5) == []
    assert tail.poll() == []
    _append(log, 0, 2)
    assert tail.poll() == _lines(0, 2)
    tail.close()


def test_a_file_that_was_removed_is_followed_by_the_next_of_its_name(path: Path, log: LogFile) -> None:
    _append(log, 0, 2)
    tail = Tail(path)
    path.unlink()
    assert tail.poll() == []
    _append(log, 2, 4)
    assert tail.poll() == _lines(2, 4)
    tail.close()


def test_a_file_truncated_in_place_is_read_from_its_start(path: Path) -> None:
    path.write_bytes(b"a\nb\n")
    tail = Tail(path)
    path.write_bytes(b"c\n")
    assert tail.poll() == [b"c"]
    tail.close()


def test_half_a_line_waits_for_its_other_half(path: Path) -> None:
    path.write_bytes(b"a\nb")
    tail = Tail(path)
    assert tail.last(5) == [b"a"]
    assert tail.poll() == []
    with path.open("ab") as file:
        file.write(b"c\n")
    assert tail.poll() == [b"bc"]
    tail.close()
