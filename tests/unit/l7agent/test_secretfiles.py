# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from l7agent import secretfiles
from l7policy.model import Secret

TOKEN = Secret("shop", "token")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "shop" / "token"
    path.parent.mkdir()
    path.write_text("s3cret\n")
    path.chmod(0o600)
    return path


def read(path: Path) -> tuple[dict[Secret, str], tuple[str, ...]]:
    return secretfiles.read(path.parent.parent, [TOKEN])


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_the_content_without_its_line_end_is_the_value(secret: Path, content: str, mode: int) -> None:
    secret.write_bytes(content.encode())
    secret.chmod(mode)
    assert read(secret) == ({TOKEN: "s3cret"}, ())


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602, 0o601])
def test_a_file_that_others_can_get_at_is_not_used(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    found, (problem,) = read(secret)
    assert found == {}
    assert problem == f"secret {secret}: mode {mode:04o} lets others at it: chmod 0600"


def test_a_file_of_another_user_is_not_used(secret: Path) -> None:
    os.chown(secret, 12345, 0)
    assert read(secret) == ({}, (f"secret {secret}: belongs to user 12345: chown root",))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot be a header's value"),
        (b"two\nlines", "cannot be a header's value"),
        (b"a\r\nX-Admin: 1", "cannot be a header's value"),
        (b" padded", "cannot be a header's value"),
        (b"\xff\xfe", "cannot be a header's value"),
        (b"x" * 8193, "larger than 8192 bytes"),
    ],
)
def test_what_cannot_be_a_header_is_not_used_and_not_quoted(secret: Path, content: bytes, problem: str) -> None:
    secret.write_bytes(content)
    found, (said,) = read(secret)
    assert found == {}
    assert problem in said
    assert "Admin" not in said


def test_a_missing_file_is_told_and_a_fifo_does_not_hang(secret: Path) -> None:
    secret.unlink()
    assert read(secret) == ({}, (f"secret {secret}: no such file or directory",))
    os.mkfifo(secret, 0o600)
    assert read(secret) == ({}, (f"secret {secret}: not a file",))
