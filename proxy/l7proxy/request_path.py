# SPDX-License-Identifier: Apache-2.0
"""Paths that a server could read differently from the rule that judged them.

A rule sees the path as it was sent. nginx serves what is left after it decoded ``%2e``, merged ``//``, resolved ``..``
and cut at ``#``; other servers also take ``\\`` for ``/`` and drop ``;parameters``. ``/public/..%2fadmin`` matches
``/public/.*`` and may be served as ``/admin``. So a path must be spelt in the one way in which RFC 3986 normalisation
changes nothing, whatever the rules of the flow are: a flow reaches the proxy only because an HTTP rule covers it, and
which expressions a rule uses must not decide whether an evasion is noticed. The query is exempt: no server resolves it.

A node may be configured to write such a path in that one way instead of refusing it (`normalised`). Then what is judged
and what is sent are both the new path, so it makes no difference how a server would have read the old one. What has no
certain meaning even then (``..;``, a fragment, controls, broken percent-encoding) is refused as ever.

Failure verdict: 400, HTTP_MALFORMED.
"""

import re
from typing import Final

_SUSPICIOUS: Final = re.compile(rb"//|/\.|[%\\#]")
"""None of these in the whole target: nothing to look at. Nearly every request ends here."""

_BROKEN: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

_FAULTS: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = (
    (re.compile(rb"//"), "empty path segment"),
    (re.compile(rb"/\.\.?(?:[/;]|\Z)"), "dot segment in path"),
    (re.compile(rb"\\"), "backslash in path"),
    (_BROKEN, "invalid percent-encoding in path"),
    (re.compile(rb"%(?:2[fF]|5[cC])"), "encoded slash or backslash in path"),
    (re.compile(rb"%(?:[01][0-9A-Fa-f]|7[fF])"), "encoded control character in path"),
    # Unreserved characters, of which the dot is one: decoding them changes the spelling and not the meaning.
    (re.compile(rb"%(?:2[dDeE]|3[0-9]|4[1-9A-Fa-f]|5[0-9aAfF]|6[1-9A-Fa-f]|7[0-9aAeE])"), "needless encoding in path"),
)


_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\")
"""Unreserved characters, and what many servers decode into a separator."""


def fault(target: bytes) -> str:
    """Why the path of this target is not certain, or an empty string. The target begins with a slash."""
    if _SUSPICIOUS.search(target) is None:
        return ""
    path = target.partition(b"?")[0]
    if b"#" in target:
        return "fragment in request target"
    for expression, detail in _FAULTS:
        if expression.search(path) is not None:
            return detail
    return ""


def settled(target: bytes, *, normalise: bool) -> tuple[bytes, str]:
    """The target as rules and the server are to see it, and why it is refused all the same (or an empty string)."""
    found = fault(target)
    if found and normalise:
        target = normalised(target)
        found = fault(target)
    return target, found


def normalised(target: bytes) -> bytes:
    """The target with its path in the one spelling, which may still have a fault. It begins with a slash.

    Unreserved characters, ``%2f`` and ``%5c`` are decoded once, as servers do. Then ``\\`` is ``/``, several ``/`` are
    one, and dot segments are resolved (RFC 3986 §5.2.4); above the root there is nothing. The query stays as it is.
    Broken percent-encoding stays: what is decoded behind a lone ``%`` could make an encoding of it.
    """
    path, question, query = target.partition(b"?")
    if _BROKEN.search(path) is not None:
        return target
    path = _ENCODED.sub(_decoded, path).replace(b"\\", b"/")
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    # What ends with a separator or a dot segment is a folder.
    end = b"/" if kept and segments[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(kept) + end + question + query


def _decoded(found: re.Match[bytes]) -> bytes:
    code = int(found[1], 16)
    return bytes((code,)) if code in _PLAIN else found[0]
