# SPDX-License-Identifier: Apache-2.0
"""Makes the changes that rules want in the headers of a judged request (``headerMatches`` with ADD, DELETE or REPLACE).

The head that comes in is one whose meaning is certain, and no rule can name a field that frames a message
(`l7policy.headers.UNCHANGEABLE`), so the request that goes out is the one that was judged, with other headers. All that
could go wrong is a value with a line end in it: policies and secrets with such a value are refused where they are read,
and here once more, because a line end here is a request nobody judged.

Failure verdict: None, and the caller refuses the request.
"""

import re
from collections.abc import Sequence
from typing import Final

from l7policy.headers import Edit, edited

_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(rb"[ -~\x80-\xff]*")


def write(head: bytes, edits: Sequence[Edit]) -> bytes | None:
    """The head with the edits made, None if one of them cannot be written."""
    for edit in edits:
        if _TOKEN.fullmatch(edit.name.encode()) is None or _VALUE.fullmatch(edit.value) is None:
            return None
    line, *fields = head[:-4].split(b"\r\n")
    split = [field.partition(b":")[::2] for field in fields]
    written = [name + b":" + value for name, value in edited(split, _padded(edits))]
    return b"\r\n".join([line, *written]) + b"\r\n\r\n"


def _padded(edits: Sequence[Edit]) -> list[Edit]:
    """Fields that stay keep their spelling, blank and all; new ones get the usual blank."""
    return [Edit(edit.action, edit.name, b" " + edit.value) for edit in edits]
