# SPDX-License-Identifier: Apache-2.0
"""Values of one field are alternatives, fields must all fit."""

import pytest

from l7observe.flow import Flow, FlowPeer, FlowType
from l7observe.flowfilter import FlowFilter
from l7policy.verdict import Direction, Reason, Verdict

FLOW = Flow(
    0.0,
    "packet",
    Verdict.DROPPED,
    Reason.POLICY_DENIED,
    Direction.EGRESS,
    6,
    FlowPeer("192.0.2.1", endpoint=7, name="web"),
    FlowPeer("198.51.100.5"),
    type=FlowType.DROP,
)
WEB, SERVER, OTHER = frozenset({"web"}), frozenset({"198.51.100.5"}), frozenset({"8", "db"})


@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        (FlowFilter(), True),
        (FlowFilter(frozenset({FlowType.DROP, FlowType.L7})), True),
        (FlowFilter(frozenset({FlowType.L7})), False),
        (FlowFilter(sources=WEB), True),
        (FlowFilter(sources=frozenset({"7"})), True),
        (FlowFilter(sources=OTHER | WEB), True),
        (FlowFilter(sources=OTHER), False),
        (FlowFilter(destinations=WEB), False),
        (FlowFilter(destinations=SERVER), True),
        (FlowFilter(related=WEB), True),
        (FlowFilter(related=SERVER), True),
        (FlowFilter(related=OTHER), False),
        (FlowFilter(sources=WEB, destinations=SERVER), True),
        (FlowFilter(sources=WEB, destinations=OTHER), False),
        (FlowFilter(frozenset({FlowType.L7}), related=WEB), False),
        (FlowFilter(destinations=frozenset({"0", ""})), True),
    ],
)
def test_a_flow_is_wanted_if_every_field_fits(wanted: FlowFilter, accepted: bool) -> None:
    # A peer that is no workload has the name "": whoever asks for that gets what has none.
    assert wanted.accepts(FLOW) is accepted


def test_no_type_asks_for_every_type() -> None:
    assert FlowFilter().wanted == frozenset(FlowType)
    assert FlowFilter(frozenset({FlowType.TRACE})).wanted == {FlowType.TRACE}
