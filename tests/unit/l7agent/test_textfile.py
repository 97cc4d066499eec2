# SPDX-License-Identifier: Apache-2.0
import os
import threading
from pathlib import Path

import pytest

from l7agent import textfile


def test_a_text_is_read_with_every_kind_of_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("a: é\r\nb: 1\rc: 2\n".encode())
    assert textfile.read(tmp_path / "a.yaml") == "a: é\nb: 1\nc: 2\n"


@pytest.mark.parametrize("what", ["fifo", "device"])
def test_what_never_ends_is_not_read_because_it_stands_in_a_folder(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.yaml"
    if what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="Not a regular file") as refused:
        textfile.read(path)
    assert refused.value.filename == str(path)


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        textfile.read(tmp_path)


def test_a_pipe_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("a: 1\n",))
    writer.start()
    assert textfile.read(path, named=True) == "a: 1\n"
    writer.join()


def test_an_endless_device_is_read_no_further_than_a_text_can_be_long() -> None:
    with pytest.raises(OSError, match="Larger than 32 MiB"):
        textfile.read(Path("/dev/zero"), named=True)


def test_an_empty_device_is_an_empty_text() -> None:
    assert textfile.read(Path("/dev/null"), named=True) == ""
