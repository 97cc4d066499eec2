# SPDX-License-Identifier: Apache-2.0
"""Addresses: text and packed are each other's inverse."""

import pytest

from l7dns.addresses import address_bytes, address_text


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("192.0.2.1", bytes([192, 0, 2, 1])),
        ("2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
        ("::", bytes(16)),
    ],
)
def test_an_address_goes_both_ways(text: str, packed: bytes) -> None:
    assert address_bytes(text) == packed
    assert address_text(packed) == text
