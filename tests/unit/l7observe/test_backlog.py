# SPDX-License-Identifier: Apache-2.0
"""Flows that wait: in order, and never more of them, or of what they hold, than was said."""

import pytest

from l7observe.backlog import PLAIN, Backlog, Rows, weight
from l7observe.flow import DnsSummary, Flow, FlowPeer, HttpSummary, TlsSummary
from l7policy.verdict import Direction, Reason, Verdict


def flow(number: int = 0, path: str = "") -> Flow:
    peer = FlowPeer("192.0.2.1")
    http = HttpSummary(path=path) if path else None
    return Flow(number, "http", Verdict.DROPPED, Reason.HTTP_DENIED, Direction.EGRESS, 6, peer, peer, http=http)


def test_they_are_taken_in_order_and_make_room() -> None:
    backlog = Backlog(3, 1 << 20)
    assert [backlog.add(flow(number)) for number in range(4)] == [True, True, True, False]
    assert [one.time for one in backlog.take(2)] == [0, 1]
    assert backlog.add(flow(4))
    assert [one.time for one in backlog.take(9)] == [2, 4]
    assert len(backlog) == 0
    assert backlog.take(1) == []


def test_long_paths_fill_it_before_their_number_does() -> None:
    backlog = Backlog(1000, 10 * (PLAIN + 32000))
    taken = [backlog.add(flow(path="/" * 32000)) for _ in range(12)]
    assert taken == [True] * 10 + [False] * 2
    backlog.take(1)
    assert [backlog.add(flow()) for _ in range(40)].count(True) == (PLAIN + 32000) // PLAIN


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({}, 0),
        ({"http": HttpSummary("GET", "a.example", "/abc", missing_headers=("X: yz",), rejected_headers=("A: b",))}, 22),
        ({"dns": DnsSummary("a.example", "A", "NOERROR", ("192.0.2.1",), ("b.example",))}, 18),
        ({"tls": TlsSummary("a.example", "TLS 1.3", ("h2", "http/1.1"))}, 10),
    ],
)
def test_what_a_workload_chose_the_length_of_counts(summary: dict[str, object], expected: int) -> None:
    peer = FlowPeer("192.0.2.1")
    one = Flow(0, "http", Verdict.DROPPED, Reason.HTTP_DENIED, Direction.EGRESS, 6, peer, peer, **summary)  # type: ignore[arg-type]
    assert weight(one) == PLAIN + expected


def test_rows_are_taken_in_order_and_make_room() -> None:
    rows = Rows(3, 1 << 20)
    assert [rows.add(b"%d" % number) for number in range(4)] == [True, True, True, False]
    assert rows.take(2) == [b"0", b"1"]
    assert rows.add(b"4")
    assert (rows.take(9), len(rows), rows.take(1)) == ([b"2", b"4"], 0, [])


def test_long_rows_fill_it_before_their_number_does() -> None:
    rows = Rows(1000, 100)
    assert [rows.add(b"x" * 40) for _ in range(3)] == [True, True, False]
    rows.take(1)
    assert [rows.add(b"x" * 60), rows.add(b"x")] == [True, False]
