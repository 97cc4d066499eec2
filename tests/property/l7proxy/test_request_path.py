# SPDX-License-Identifier: Apache-2.0
"""A path that was normalised has one reading, and is the one that servers would have found."""

import posixpath
import urllib.parse

from hypothesis import example, given, settings
from hypothesis import strategies as st

from l7proxy import request_head
from l7proxy.head import Malformed, RequestHead
from l7proxy.request_path import fault, normalised

PIECES = st.sampled_from(
    rb"/ // . .. \ %2e %2E %2f %2F %5c %61 %25 %20 a b ;x % %0 %00 %7f %c3%a4 %252e ~ # ? ?x=/../%2e !".split()
)
TARGETS = st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces))


def served(target: bytes) -> bytes:
    """Where a server would look that decodes, takes a backslash for a slash and resolves dots: an independent rule."""
    path = urllib.parse.unquote_to_bytes(target.partition(b"?")[0]).replace(b"\\", b"/")
    found = posixpath.normpath(path).replace(b"//", b"/")
    folder = path.endswith((b"/", b"/.", b"/.."))
    return found + b"/" if folder and found != b"/" else found


@settings(max_examples=1000)
@given(TARGETS)
@example(b"/public/..%2fadmin")
@example(b"/a/..;/b")
@example(b"/%%61a")
def test_what_is_normalised_has_one_reading_or_a_fault(target: bytes) -> None:
    written = normalised(target)
    assert written.startswith(b"/")
    if fault(written) == "":
        assert normalised(written) == written
        assert served(written) == served(target)
        assert written.partition(b"?")[2] == target.partition(b"?")[2]
    if fault(target) == "":
        assert written == target


@settings(max_examples=500)
@given(TARGETS, st.sampled_from([b"", b"http://a"]), st.sampled_from([b"", b"X: \xe4\r\n", b"Content-Length: 5\r\n"]))
def test_a_request_is_judged_and_sent_by_the_same_path(target: bytes, prefix: bytes, field: bytes) -> None:
    head = b"GET " + prefix + target + b" HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n"
    read = request_head.parse(head, normalise=True)
    strict = request_head.parse(head)
    if isinstance(read, Malformed):
        assert isinstance(strict, Malformed)
        return
    assert isinstance(read, RequestHead)
    assert fault(read.path) == ""
    # What goes to the server is judged alike by a proxy that refuses whatever is ambiguous.
    again = request_head.parse(read.raw)
    assert isinstance(again, RequestHead)
    assert (again.path, again.host, again.framing) == (read.path, read.host, read.framing)
    if isinstance(strict, RequestHead):
        assert strict == read
