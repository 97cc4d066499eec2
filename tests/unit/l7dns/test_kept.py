# SPDX-License-Identifier: Apache-2.0
"""Addresses whose names are over: for how long they are kept, and how many."""

from l7dns.kept import KeptAddresses
from l7dns.namecache import Fact

WWW, API = Fact("www.example.com."), Fact("api.example.com.", "198.51.100.53", 53)
ONE, TWO, THREE = b"\1\1\1\1", b"\2\2\2\2", b"\3\3\3\3"


def test_what_nobody_is_connected_to_is_let_go() -> None:
    kept = KeptAddresses(8)
    assert kept.add(WWW, ONE, 1.0) == kept.add(API, ONE, 1.0) == kept.add(WWW, TWO, 1.0) == []
    assert kept.release([ONE, TWO, THREE], {ONE: {"192.0.2.8", "192.0.2.7"}}, 2.0) == [TWO]
    assert (kept.facts_of(ONE), kept.clients_of(ONE)) == ([WWW, API], ("192.0.2.7", "192.0.2.8"))
    assert (list(kept.addresses()), TWO in kept, kept.facts_of(TWO), kept.clients_of(TWO)) == ([ONE], False, [], ())
    assert kept.release([ONE], {}, 3.0) == [ONE]
    assert len(kept) == 0


def test_what_came_after_the_kernel_was_asked_stays() -> None:
    kept = KeptAddresses(8)
    kept.add(WWW, ONE, 5.0)
    assert kept.release([ONE], {}, 4.9) == []
    assert kept.release([ONE], {}, 5.0) == [ONE]


def test_an_address_goes_with_its_last_fact() -> None:
    kept = KeptAddresses(8)
    kept.add(WWW, ONE, 1.0)
    kept.add(WWW, ONE, 2.0)
    kept.add(API, ONE, 2.0)
    assert list(kept.items()) == [(WWW, ONE), (API, ONE)]
    assert (kept.discard(WWW, ONE), kept.discard(WWW, ONE), kept.discard(WWW, TWO)) == (True, False, False)
    assert kept.discard(API, ONE)
    assert ONE not in kept


def test_memory_is_bounded_by_addresses_and_by_facts_of_each() -> None:
    kept = KeptAddresses(2)
    assert [kept.add(WWW, address, 1.0) for address in (ONE, TWO, THREE)] == [[], [], [ONE]]
    assert (list(kept.addresses()), kept.evicted) == ([TWO, THREE], 1)
    for number in range(100):
        kept.add(Fact(f"n{number}.example.com."), TWO, 1.0)
    assert len(kept.facts_of(TWO)) == 16
