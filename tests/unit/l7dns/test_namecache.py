# SPDX-License-Identifier: Apache-2.0
"""The name cache forgets in the right order."""

from l7dns.namecache import Change, NameCache

A, B, C = (bytes([192, 0, 2, last]) for last in (1, 2, 3))


def test_the_later_expiry_of_a_pair_counts() -> None:
    cache = NameCache()
    assert cache.put("a.", [A], 100.0) == [Change(True, "a.", A)]
    assert cache.put("a.", [A], 50.0) == []
    assert cache.expire(99.0) == []
    assert cache.put("a.", [A], 200.0) == []
    assert cache.expire(199.0) == []
    assert cache.expire(200.0) == [Change(False, "a.", A)]
    assert len(cache) == 0


def test_over_the_cap_the_least_recently_learnt_name_goes() -> None:
    cache = NameCache(max_names=2)
    cache.put("a.", [A], 100.0)
    cache.put("b.", [B], 100.0)
    cache.put("a.", [A], 101.0)
    assert cache.put("c.", [C], 100.0) == [Change(True, "c.", C), Change(False, "b.", B)]
    assert (cache.evicted_names, cache.names) == (1, 2)


def test_over_the_cap_the_first_address_to_expire_goes() -> None:
    cache = NameCache(max_addresses_per_name=2)
    cache.put("a.", [A], 100.0)
    cache.put("a.", [B], 50.0)
    assert cache.put("a.", [C], 70.0) == [Change(True, "a.", C), Change(False, "a.", B)]
    assert cache.evicted_addresses == 1


def test_an_address_keeps_the_names_that_are_left() -> None:
    cache = NameCache()
    cache.put("a.", [A], 100.0)
    cache.put("b.", [A], 50.0)
    assert cache.facts_of(A) == {"a.", "b."}
    cache.expire(60.0)
    assert cache.facts_of(A) == {"a."}


def test_churn_does_not_make_the_queue_grow() -> None:
    cache = NameCache(max_names=10)
    for number in range(20_000):
        cache.put(f"n{number}.", [A], 1e9)
    assert len(cache._due) <= 2 * len(cache) + 1025
    assert len(cache) == 10


def test_over_the_cap_of_all_addresses_the_least_recently_learnt_name_goes() -> None:
    cache = NameCache(max_addresses=3)
    cache.put("a.", [A, B], 100.0)
    cache.put("b.", [C], 100.0)
    assert cache.put("c.", [A], 100.0) == [Change(True, "c.", A), Change(False, "a.", A), Change(False, "a.", B)]
    assert len(cache) == 2


def test_a_workload_that_asks_for_ever_more_names_pushes_out_its_own_and_not_those_of_others() -> None:
    cache = NameCache(max_names=10)
    cache.put("needed.", [A], 1e9, endpoint=1)
    for number in range(100):
        cache.put(f"n{number}.", [B], 1e9, endpoint=2)
    assert cache.names == 10
    assert cache.facts_of(A) == {"needed."}


def test_an_answer_that_changes_nothing_is_told_apart_and_counts_as_use() -> None:
    cache = NameCache(max_names=2)
    cache.put("a.", [b"1111"], 10.0, 1)
    cache.put("b.", [b"2222"], 10.0, 1)
    assert cache.covers("a.", [b"1111"], 10.0, 1)
    assert not cache.covers("a.", [b"1111"], 10.5, 1)
    assert not cache.covers("a.", [b"1111", b"3333"], 9.0, 1)
    assert not cache.covers("a.", [b"1111"], 10.0, 2)
    assert not cache.covers("c.", [b"1111"], 10.0, 1)
    cache.put("c.", [b"4444"], 10.0, 1)
    assert {name for name, _, _ in cache.items()} == {"a.", "c."}


def test_what_two_workloads_asked_for_stays_for_one_when_the_other_has_to_forget_it() -> None:
    cache = NameCache(max_names=4)
    cache.put("needed.", [A], 1e9, endpoint=1)
    cache.put("needed.", [A], 1e9, endpoint=2)
    for number in range(100):
        cache.put(f"n{number}.", [B, C], 1e9, endpoint=2)
    assert cache.facts_of(A) == {"needed."}
    assert [(fact, endpoint) for fact, endpoint, _ in cache.oldest_first() if fact == "needed."] == [("needed.", 1)]
    assert cache.names == 4
