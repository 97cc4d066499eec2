# SPDX-License-Identifier: Apache-2.0
"""Prefixes: the longest one wins, and some addresses can never be learnt."""

import pytest

from l7dns.addresses import address_bytes
from l7dns.prefixes import PrefixTable, learnable
from l7policy.ids import IdentityId

TABLE = PrefixTable(
    {
        "0.0.0.0/0": IdentityId(10),
        "192.0.2.0/24": IdentityId(11),
        "192.0.2.128/25": IdentityId(12),
        "192.0.2.200/32": IdentityId(13),
        "2001:db8::/32": IdentityId(14),
    }
)


@pytest.mark.parametrize(
    ("address", "within", "expected"),
    [
        ("198.51.100.1", None, 10),
        ("192.0.2.1", None, 11),
        ("192.0.2.129", None, 12),
        ("192.0.2.200", None, 13),
        ("192.0.2.200", 31, 12),
        ("192.0.2.200", 24, 11),
        ("2001:db8::5", None, 14),
        ("2001:db9::5", None, None),
    ],
)
def test_the_longest_prefix_that_holds_an_address_gives_its_identity(
    address: str, within: int | None, expected: int | None
) -> None:
    assert TABLE.find(address_bytes(address), within) == expected


def test_only_a_prefix_of_one_address_is_exact() -> None:
    assert TABLE.exact(address_bytes("192.0.2.200")) == 13
    assert TABLE.exact(address_bytes("192.0.2.129")) is None
    assert TABLE.exact(address_bytes("2001:db8::5")) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1", False),
        ("ff02::1", False),
    ],
)
def test_what_can_be_no_server_out_in_the_world_is_never_learnt(address: str, expected: bool) -> None:
    assert learnable(address_bytes(address)) is expected
