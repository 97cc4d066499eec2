# SPDX-License-Identifier: Apache-2.0
"""A client that asks too much is refused for a moment, and nobody else is."""

from l7observe.ratelimit import RateLimit


def test_a_bucket_holds_one_second_and_fills_again() -> None:
    limit = RateLimit(10)
    assert [limit.allows("203.0.113.1", 0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert limit.allows("203.0.113.2", 0.0)
    assert [limit.allows("203.0.113.1", 0.3) for _ in range(4)] == [True] * 3 + [False]
    assert [limit.allows("203.0.113.1", 99.0) for _ in range(11)] == [True] * 10 + [False]


def test_refusals_do_not_put_off_the_next_query() -> None:
    limit = RateLimit(1)
    assert limit.allows("203.0.113.1", 0.0)
    assert not any(limit.allows("203.0.113.1", step / 100) for step in range(1, 99))
    assert limit.allows("203.0.113.1", 1.0)


def test_clients_that_are_quiet_are_forgotten() -> None:
    limit = RateLimit(10)
    for number in range(100):
        limit.allows(f"203.0.113.{number}", 0.0)
    limit.allows("203.0.113.1", 0.5)
    limit.sweep(1.2)
    assert len(limit) == 1


def test_no_limit_remembers_nobody() -> None:
    limit = RateLimit(0)
    assert all(limit.allows("203.0.113.1", 0.0) for _ in range(1000))
    assert len(limit) == 0
