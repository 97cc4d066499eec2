# SPDX-License-Identifier: Apache-2.0
import contextlib
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import names, prefixes, scalars

TEXTS = st.text(max_size=40) | st.text("aA0-_.*: /()[]\\?+{}|^$1", max_size=40)


@pytest.mark.parametrize(
    "function",
    [
        scalars.match_name,
        scalars.match_pattern,
        scalars.expression,
        scalars.header,
        scalars.port_number,
        prefixes.network,
    ],
)
def test_any_text_is_accepted_or_a_value_error(function: Callable[[str], Any]) -> None:
    @settings(max_examples=100)
    @given(TEXTS)
    def check(text: str) -> None:
        with contextlib.suppress(ValueError):
            function(text)

    check()


@settings(max_examples=100)
@given(st.text("abAB0-_.*", min_size=1, max_size=30))
def test_a_pattern_is_canonical_after_one_reading(text: str) -> None:
    with contextlib.suppress(ValueError):
        peer = scalars.match_pattern(text)
        assert scalars.match_pattern(peer.match_pattern) == peer
        assert names.canonical(peer.match_pattern) == peer.match_pattern


@settings(max_examples=100)
@given(st.ip_addresses(), st.integers(0, 128))
def test_a_prefix_contains_the_address_it_was_written_with(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    try:
        network = prefixes.network(f"{address}/{length}")
    except ValueError:
        assert length > 32 or address.version == 6
        return
    assert address in network
    assert network.prefixlen == length
    prefixes.contained(network, network)
