# SPDX-License-Identifier: Apache-2.0
"""Header fields of a head: names without case, values without the blanks around them, in their order."""

from l7proxy.head import Fields


def test_fields_are_read_as_a_server_reads_them() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: api.example.com\r\nX-Team:shop \r\nX-Team: \r\nx-colon: a:b\r\n\r\n"
    assert list(Fields(raw)) == [
        (b"host", b"api.example.com"),
        (b"x-team", b"shop"),
        (b"x-team", b""),
        (b"x-colon", b"a:b"),
    ]


def test_a_head_without_fields_has_none() -> None:
    assert list(Fields(b"GET / HTTP/1.0\r\n\r\n")) == []
