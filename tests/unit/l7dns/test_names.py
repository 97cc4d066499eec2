# SPDX-License-Identifier: Apache-2.0
"""Names from the wire become text that can be mistaken for no other name."""

import pytest

from l7dns import names
from l7dns.names import WireError


def wire(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ((), "."),
        ((b"www", b"example", b"com"), "www.example.com."),
        ((b"WwW", b"eXample", b"COM"), "www.example.com."),
        ((b"_dmarc", b"x-1", b"net"), "_dmarc.x-1.net."),
        ((b"www.example", b"com"), "www\\046example.com."),
        ((b"evil\0", b"com"), "evil\\000.com."),
        ((b"*", b"example", b"com"), "\\042.example.com."),
        ((b" www", b"com"), "\\032www.com."),
        ((b"a\\", b"com"), "a\\092.com."),
        ((b"\xe2\x84\xaa", b"com"), "\\226\\132\\170.com."),
    ],
)
def test_every_byte_that_is_no_plain_letter_is_escaped(labels: tuple[bytes, ...], text: str) -> None:
    assert names.text(wire(*labels)) == text


def test_labels_of_63_bytes_and_names_of_255_are_the_longest() -> None:
    assert names.end_of_plain(wire(b"a" * 63), 0) == 65
    longest = wire(b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61)
    assert names.end_of_plain(longest, 0) == len(longest) == 255
    for broken in (wire(b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 62), b"\x40" + b"a" * 64 + b"\0"):
        with pytest.raises(WireError):
            names.end_of_plain(broken, 0)


@pytest.mark.parametrize(
    ("data", "start"),
    [
        pytest.param(bytes(12) + b"\xc0\x0c", 12, id="to itself"),
        pytest.param(bytes(12) + b"\x01a\xc0\x0c", 12, id="to its own beginning"),
        pytest.param(bytes(12) + b"\xc0\x0e\x01a\0", 12, id="forwards"),
        pytest.param(bytes(12) + b"\x01a\0\xc0\x02", 15, id="into the header"),
        pytest.param(bytes(12) + b"\x01a\xc0", 12, id="cut short"),
        pytest.param(bytes(12) + b"\x05ab", 12, id="label cut short"),
        pytest.param(bytes(12) + b"\x80a\0", 12, id="reserved label type"),
    ],
)
def test_a_pointer_leads_backwards_or_the_name_is_not_read(data: bytes, start: int) -> None:
    with pytest.raises(WireError):
        names.expand(data, start)


def test_pointers_are_followed_and_letters_lowered() -> None:
    data = bytes(12) + wire(b"EXAMPLE", b"com") + b"\x03WWW\xc0\x0c"
    assert names.expand(data, 25) == wire(b"www", b"example", b"com")


def test_a_chain_of_pointers_cannot_make_a_name_longer_than_255_bytes() -> None:
    data = bytearray(bytes(12) + b"\x3f" + b"a" * 63 + b"\0")
    previous = 12
    for _ in range(4):
        start = len(data)
        data += b"\x3f" + b"b" * 63 + (0xC000 | previous).to_bytes(2, "big")
        previous = start
    with pytest.raises(WireError, match="255"):
        names.expand(bytes(data), previous)
