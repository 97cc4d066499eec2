# SPDX-License-Identifier: Apache-2.0
"""Properties of l7observe.record and of the line that l7observe.compact makes of it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from l7observe import record
from l7observe.compact import compact
from l7observe.flow import DnsSummary, Flow, FlowPeer, HttpSummary
from l7policy.verdict import Direction, Protocol, Reason, Verdict

TEXT = st.text(st.characters(codec=None), max_size=30)
LABELS = st.lists(TEXT, max_size=3).map(tuple)
PEERS = st.builds(
    FlowPeer,
    address=TEXT,
    port=st.integers(0, 65535),
    identity=st.integers(0, 2**32 - 1),
    labels=LABELS,
    endpoint=st.integers(0, 3),
    name=TEXT,
)
FLOWS = st.builds(
    Flow,
    time=st.floats(0, 4e9),
    layer=st.sampled_from(["packet", "http", "dns"]),
    verdict=st.sampled_from(Verdict),
    reason=st.sampled_from(Reason),
    direction=st.sampled_from(Direction),
    protocol=st.sampled_from(Protocol) | st.integers(0, 255),
    source=PEERS,
    destination=PEERS,
    endpoint=st.integers(0, 3),
    http=st.none() | st.builds(HttpSummary, method=TEXT, host=TEXT, path=TEXT, status=st.integers(0, 999)),
    dns=st.none() | st.builds(DnsSummary, query=TEXT, qtype=TEXT, rcode=TEXT),
    rule=TEXT,
    policies=LABELS,
    revision=st.integers(0, 2**32),
    detail=TEXT,
)


@settings(max_examples=200)
@given(FLOWS)
def test_any_flow_is_one_line_that_reads_back(flow: Flow) -> None:
    line = record.encode(record.from_flow(flow, "node-1"))
    assert line.count(b"\n") == 1
    read = record.decode(line)
    assert read is not None
    assert record.encode(read) == line
    assert read.reason == flow.reason.name
    assert read.revision == flow.revision


@settings(max_examples=200)
@given(FLOWS)
def test_any_record_is_one_printable_line_for_people(flow: Flow) -> None:
    written = record.from_flow(flow)
    assert compact(written, node=True).isprintable()
    assert all(cell.isprintable() for cell in record.COLUMNS.rows([written], wide=True)[0])


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_none(line: bytes) -> None:
    record.decode(line)
