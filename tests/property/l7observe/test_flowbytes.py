# SPDX-License-Identifier: Apache-2.0
"""A row means the flow that it was made of, whichever way it was made."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7observe import flowbytes
from l7observe.flow import DnsSummary, Flow, FlowPeer, FlowType, HttpSummary, L7Type
from l7policy.verdict import Direction, Protocol, Reason, Verdict

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LABELS = st.lists(TEXT, max_size=3).map(tuple)
NUMBERS = st.integers(0, 2**63)
PEERS = st.builds(FlowPeer, TEXT, st.integers(0, 65535), NUMBERS, LABELS, NUMBERS, TEXT)
REQUESTS = st.builds(HttpSummary, TEXT, TEXT, TEXT, st.integers(0, 999), LABELS, LABELS, TEXT, NUMBERS, NUMBERS)
FLOWS = st.builds(
    Flow,
    st.floats(allow_nan=False),
    TEXT,
    st.sampled_from(Verdict),
    st.sampled_from(Reason),
    st.sampled_from(Direction),
    st.sampled_from(Protocol) | st.integers(0, 255),
    PEERS,
    PEERS,
    endpoint=NUMBERS,
    http=st.none() | REQUESTS,
    dns=st.none() | st.builds(DnsSummary, TEXT),
    type=st.sampled_from(FlowType),
    l7_type=st.sampled_from(L7Type),
    latency_ns=NUMBERS,
    proxy=TEXT,
    rule=TEXT,
    policies=LABELS,
    revision=NUMBERS,
    detail=TEXT,
)


@given(st.lists(FLOWS, max_size=5))
def test_a_batch_is_its_flows_in_order(flows: list[Flow]) -> None:
    rows = [flowbytes.row(flow) for flow in flows]
    assert [flowbytes.flow(row) for row in rows] == flows
    assert flowbytes.flows(flowbytes.batch(rows)) == flows


@given(FLOWS, st.floats(allow_nan=False), NUMBERS, REQUESTS)
def test_a_row_of_a_template_is_its_flow_with_another_time_latency_and_request(
    flow: Flow, time: float, latency: int, http: HttpSummary
) -> None:
    expected = msgspec.structs.replace(flow, time=time, latency_ns=latency, http=http)
    row = flowbytes.Template(flow).row(time, latency, flowbytes.part(http))
    assert flowbytes.flow(row) == expected
    assert flowbytes.flows(flowbytes.batch([row])) == [expected]


@given(st.binary(max_size=60))
def test_any_bytes_are_flows_or_refused(data: bytes) -> None:
    try:
        read: Any = flowbytes.flows(data)
    except msgspec.MsgspecError:
        with pytest.raises(msgspec.MsgspecError):
            flowbytes.flows(data)
    else:
        assert all(isinstance(one, Flow) for one in read)
