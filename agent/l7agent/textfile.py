# SPDX-License-Identifier: Apache-2.0
"""Reads a text that people write (policies, endpoints, the configuration), and nothing that only looks like its file.

The agent reads such files on its event loop: what never ends (a FIFO without a writer, a device behind a symbolic link)
would end it. So what a folder holds is a file or is not read, and nothing is read that is longer than a usable text.

Failure verdict: OSError that names the file, or UnicodeDecodeError.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from l7policy import yamltree

MAX_BYTES: Final = 4 * yamltree.MAX_CHARACTERS
"""No character of UTF-8 is longer than four bytes."""


def read(path: Path, *, named: bool = False) -> str:
    """The text. `named`: somebody named this very file, so it may be a pipe (``<(…)`` of a shell) or /dev/null, too."""
    # A FIFO must not hold the process up before it is known to be one.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if named else os.O_NONBLOCK))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not (named or stat.S_ISREG(mode)):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        with open(handle, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"Larger than {MAX_BYTES >> 20} MiB", str(path))
    # Line ends as Path.read_text() reads them.
    return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
