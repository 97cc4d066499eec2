# SPDX-License-Identifier: Apache-2.0
"""Small state files: written whole or not at all, readable by root only."""

import contextlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


def save(path: Path, value: object, *, indented: bool = True) -> None:
    """Replaces the file in one step, unless it says so already. Raises OSError; then the old contents are still there.

    `indented` is for people to read, at a price where there is much of it.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    text = msgspec.json.encode(value)
    text = msgspec.json.format(text) if indented else text
    with contextlib.suppress(OSError):
        if path.read_bytes() == text:
            return
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load(path: Path, kind: type[T]) -> T | None:
    """The file's value, None if there is no file. Raises StateError if it cannot be understood."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise StateError(f"{path}: {error}; remove the file to start without what it remembers") from error


class StateError(Exception):
    """A state file was damaged."""
