# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.headers import Edit
from l7policy.model import Mismatch
from l7proxy import edited_head

ADD, DELETE, REPLACE = Mismatch.ADD, Mismatch.DELETE, Mismatch.REPLACE
HEAD = b"GET /a HTTP/1.1\r\nHost:  a.example \r\nX-A:1\r\nx_a: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("edits", "fields"),
    [
        ((), b"Host:  a.example \r\nX-A:1\r\nx_a: 2\r\n"),
        ((Edit(ADD, "X-B", b"3"),), b"Host:  a.example \r\nX-A:1\r\nx_a: 2\r\nX-B: 3\r\n"),
        ((Edit(DELETE, "X-A"),), b"Host:  a.example \r\n"),
        ((Edit(REPLACE, "x-a", b"\xc3\xa4"),), b"Host:  a.example \r\nx-a: \xc3\xa4\r\n"),
        ((Edit(DELETE, "X-A"), Edit(ADD, "X-A", b"3")), b"Host:  a.example \r\nX-A: 3\r\n"),
    ],
)
def test_what_is_not_edited_stays_to_the_byte(edits: tuple[Edit, ...], fields: bytes) -> None:
    assert edited_head.write(HEAD, edits) == b"GET /a HTTP/1.1\r\n" + fields + b"\r\n"


@pytest.mark.parametrize("value", [b"a\r\nX: b", b"a\nX: b", b"a\0", b"a\tb", b"\x7f"])
def test_no_value_can_begin_another_line(value: bytes) -> None:
    assert edited_head.write(HEAD, (Edit(ADD, "X-B", value),)) is None


@pytest.mark.parametrize("name", ["", "X B", "X:B", "X\r\nB"])
def test_no_name_can_be_more_than_a_name(name: str) -> None:
    assert edited_head.write(HEAD, (Edit(ADD, name, b"1"),)) is None
