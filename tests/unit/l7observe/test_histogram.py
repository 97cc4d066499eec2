# SPDX-License-Identifier: Apache-2.0
"""Times fall into the bucket that holds them, and quantiles never tell too little."""

from hypothesis import given
from hypothesis import strategies as st

from l7observe.histogram import BUCKETS, FIRST, Histogram


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.99) == 0.0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_at_least_the_true_one_and_at_most_twice_it(times: list[float], share: float) -> None:
    histogram = Histogram()
    for time in times:
        histogram.observe(time)
    true = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    assert true <= histogram.quantile(share) <= max(2 * true, FIRST) * 1.0000001
    assert histogram.cumulative()[-1] == (FIRST * 2 ** (BUCKETS - 1), len(times))
    assert histogram.total == sum(times)


def test_what_takes_for_ever_counts_in_the_last_bucket() -> None:
    histogram = Histogram()
    histogram.observe(1e9)
    assert histogram.counts[-1] == 1
