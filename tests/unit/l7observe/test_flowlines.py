# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.flowlines: what is written is read again, and nothing else is taken for it."""

import pytest

from l7observe import flowlines, record
from l7observe.flow import Flow
from l7observe.flowlines import Start
from l7observe.hub import Lost


def test_each_kind_of_line_is_read_as_what_was_written(packet_deny: Flow) -> None:
    start, lost = Start("node-1", 4711, {"kernel": 3, "proxies": 0}), Lost("kernel", 12)
    lines = [flowlines.encode(one, "node-1") for one in (start, packet_deny, lost)]
    assert lines[0] == b'{"type":"start","node":"node-1","agent":4711,"lost":{"kernel":3,"proxies":0}}\n'
    assert lines[2] == b'{"type":"lost","source":"kernel","count":12}\n'
    assert [flowlines.decode(line) for line in lines] == [start, record.from_flow(packet_deny, "node-1"), lost]


def test_a_flow_whose_time_no_calendar_has_is_a_loss(packet_deny: Flow) -> None:
    packet_deny.time = 1e18
    assert flowlines.decode(flowlines.encode(packet_deny)) == Lost("subscriber", 1)


@pytest.mark.parametrize(
    "line",
    [b"", b"plain text", b"\xff", b"{}", b"[]", b'{"type":"lost"}', b'{"type":"lost","source":"kernel","count":"x"}',
     b'{"type":"start","node":1}', b'{"type":"other","source":"kernel","count":1}', b'{"type":"lost","source":"ke'],
)  # fmt: skip
def test_what_is_no_line_of_a_stream_is_none(line: bytes) -> None:
    assert flowlines.decode(line) is None


@pytest.mark.parametrize(
    ("source", "said"), [("proxy", "a proxy's buffer was full"), ("of another version", "of another version")]
)
def test_a_loss_is_told_with_its_cause(source: str, said: str) -> None:
    assert flowlines.sentence(Lost(source, 2)) == f"lost 2 flows: {said}"
