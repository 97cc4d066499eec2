# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.logfile."""

import errno
import os
import resource
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from l7observe.logfile import LogFile

LINE = b"0123456789\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Writes that would make a file larger than this fail half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = len(LINE) * 3 + 5
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_folder_and_the_file_are_made_and_are_not_for_everybody(path: Path) -> None:
    umask = os.umask(0)
    try:
        file = LogFile(path, 100, 2)
        assert file.append(deque([LINE, LINE])) == 2
        file.close()
    finally:
        os.umask(umask)
    assert path.read_bytes() == LINE * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_a_group_that_exists_gets_the_file(path: Path) -> None:
    file = LogFile(path, 100, 2, group="root")
    file.append(deque([LINE]))
    file.close()
    assert path.stat().st_gid == 0


def test_a_group_that_does_not_exist_is_no_error(path: Path) -> None:
    file = LogFile(path, 100, 2, group="no-such-group")
    assert file.append(deque([LINE])) == 1
    file.close()


def test_rotation_keeps_the_newest_files_and_every_line_whole(path: Path) -> None:
    file = LogFile(path, len(LINE) * 2, 2)
    lines = deque(b"%010d\n" % number for number in range(9))
    assert file.append(lines) == 9
    file.close()
    assert path.read_bytes() == b"0000000008\n"
    assert path.with_name("audit.jsonl.1").read_bytes() == b"0000000006\n0000000007\n"
    assert path.with_name("audit.jsonl.2").read_bytes() == b"0000000004\n0000000005\n"
    assert len(list(path.parent.iterdir())) == 3


def test_without_backups_the_file_starts_anew(path: Path) -> None:
    file = LogFile(path, len(LINE) * 2, 0)
    file.append(deque([LINE] * 3))
    file.close()
    assert path.read_bytes() == LINE
    assert list(path.parent.iterdir()) == [path]


def test_a_line_longer_than_the_limit_is_still_written(path: Path) -> None:
    file = LogFile(path, 4, 1)
    assert file.append(deque([LINE, LINE])) == 2
    file.close()
    assert path.read_bytes() == LINE


def test_a_file_that_was_moved_away_is_made_again(path: Path) -> None:
    file = LogFile(path, 1000, 2)
    file.append(deque([LINE]))
    path.rename(path.with_name("moved"))
    file.append(deque([LINE]))
    file.close()
    assert path.read_bytes() == LINE
    assert path.with_name("moved").read_bytes() == LINE


def test_a_folder_that_was_removed_is_made_again(path: Path) -> None:
    file = LogFile(path, 1000, 2)
    file.append(deque([LINE]))
    path.unlink()
    path.parent.rmdir()
    file.append(deque([LINE]))
    file.close()
    assert path.read_bytes() == LINE


def test_half_a_line_left_by_a_crash_does_not_spoil_the_next(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(LINE + b'{"torn')
    file = LogFile(path, 1000, 2)
    file.append(deque([LINE]))
    file.close()
    assert path.read_bytes() == LINE + b'{"torn\n' + LINE


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_no_part_of_it(path: Path, file_size_limit: int) -> None:
    file = LogFile(path, 1000, 2)
    lines = deque([LINE] * 5)
    with pytest.raises(OSError) as caught:
        file.append(lines)
    assert caught.value.errno == errno.EFBIG
    assert len(lines) == 2
    assert path.read_bytes() == LINE * 3
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    assert file.append(lines) == 2
    file.close()
    assert path.read_bytes() == LINE * 5


def test_a_device_is_written_to_and_never_rotated(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to("/dev/null")
    file = LogFile(path, 4, 1)
    assert file.append(deque([LINE] * 3)) == 3
    file.close()
    assert list(path.parent.iterdir()) == [path]


def test_a_pipe_nobody_reads_is_an_error_and_no_standstill(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    file = LogFile(path, 1000, 1)
    with pytest.raises(BlockingIOError):
        file.append(deque([LINE] * 20000))
    file.close()


def test_a_folder_in_the_files_place_is_an_error(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        LogFile(path, 1000, 1).open()
