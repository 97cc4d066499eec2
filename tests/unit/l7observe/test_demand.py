# SPDX-License-Identifier: Apache-2.0
"""Nobody asks for records of what passes until somebody does."""

from l7observe.demand import Demand


def test_nothing_that_passes_is_recorded_for_nobody() -> None:
    demand = Demand()
    assert not demand.forwarded
    demand.forwarded = True
    assert demand.forwarded
