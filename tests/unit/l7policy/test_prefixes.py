# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import prefixes
from l7policy.model import CidrPeer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.77/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0:0::/32", "2001:db8::/32"),
        ("2001:db8::1/128", "2001:db8::1/128"),
    ],
)
def test_a_prefix_is_brought_to_canonical_form(text: str, expected: str) -> None:
    assert prefixes.cidr(text) == CidrPeer(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "2001:db8::1",
        "192.0.2.0/33",
        "192.0.2.0/255.255.255.0",
        "192.0.2/24",
        "192.0.02.0/24",
        "192.0.2.0/-1",
        "192.0.2.0/ 24",
        "fe80::1%eth0/64",
        "example.com/24",
        "2001:db8::/129",
        "::ffff:192.0.2.0/120",
    ],
)
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        prefixes.network(text)


def test_an_address_alone_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="an address alone needs /32 or /128"):
        prefixes.network("192.0.2.1")
