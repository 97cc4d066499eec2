# SPDX-License-Identifier: Apache-2.0
"""Secrets that HTTP rules refer to, as files: ``<folder>/<namespace>/<name>``.

The content is the value, without one line end at its end. Read when a revision is prepared, so a reload takes new
contents over, and only what the revision's rules refer to. Nobody but the owner (root, or the user of this process) may
be able to write the file, and others may not read it: else it is no secret, and is not used.

What is wrong is a sentence that never holds the content. Failure verdict: a secret that cannot be used is not known,
and a rule that needs it never matches.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from l7policy import scalars
from l7policy.model import Secret

MAX_BYTES: Final = 8192
"""Of one secret. It has to fit into a header."""

_FORBIDDEN: Final = stat.S_IWGRP | stat.S_IRWXO


def read(folder: Path, wanted: Iterable[Secret]) -> tuple[dict[Secret, str], tuple[str, ...]]:
    """Those secrets that can be used, and what is wrong with the others."""
    found: dict[Secret, str] = {}
    problems: list[str] = []
    for secret in sorted(wanted, key=lambda secret: (secret.namespace, secret.name)):
        path = folder / secret.namespace / secret.name
        try:
            found[secret] = _content(path)
        except OSError as error:
            problems.append(f"secret {path}: {(error.strerror or 'cannot be read').lower()}")
        except ValueError as error:
            problems.append(f"secret {path}: {error}")
    return found, tuple(problems)


def _content(path: Path) -> str:
    """Raises OSError, or ValueError with a text that does not quote the content."""
    # A FIFO must not hold the process up.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file")
        if status.st_uid not in (0, os.geteuid()):
            raise ValueError(f"belongs to user {status.st_uid}: chown root")
        if status.st_mode & _FORBIDDEN:
            raise ValueError(f"mode {stat.S_IMODE(status.st_mode):04o} lets others at it: chmod 0600")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    try:
        return scalars.header_value(content.removesuffix(b"\n").removesuffix(b"\r").decode())
    except ValueError:
        raise ValueError("cannot be a header's value: empty, not one line, or with blanks at an end") from None
