# SPDX-License-Identifier: Apache-2.0
"""Messages survive any way in which the socket cuts them, and nothing but messages is taken for one."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l7agent import wire
from l7observe.flow import DnsSummary, Flow, FlowPeer, HttpSummary
from l7policy.ids import IdentityId, PolicyId, Revision
from l7policy.model import CidrPeer, EndpointPolicy, FqdnPeer, HttpRule, Origin, Port, Rule, Snapshot
from l7policy.verdict import Direction, Protocol, Reason, Verdict

POLICY = EndpointPolicy(
    rules=(
        Rule(
            Direction.EGRESS,
            Origin("shop/web", "egress[0]", "web.yaml", 7),
            (CidrPeer("192.0.2.0/24", ("192.0.2.1/32",)), FqdnPeer(match_name="a.example.")),
            (Port(Protocol.TCP, 80, 80),),
            http=(HttpRule(method="GET", path="/.*"),),
        ),
    ),
    enforce_egress=True,
    selected_by=("shop/web",),
)
SNAPSHOT = Snapshot(
    Revision(3),
    {PolicyId(1): POLICY},
    {IdentityId(2): ("reserved:world",)},
    {"192.0.2.0/24": IdentityId(1 << 24)},
    (FqdnPeer(match_name="a.example."),),
)
numbers = st.integers(0, 2**32 - 1)
texts = st.text(max_size=40)
flows = st.builds(
    Flow,
    st.floats(0, 4e9),
    st.sampled_from(["packet", "http", "dns"]),
    st.sampled_from(Verdict),
    st.sampled_from(Reason),
    st.sampled_from(Direction),
    st.integers(0, 255),
    st.builds(FlowPeer, texts, st.integers(0, 65535), numbers, st.tuples(texts, texts)),
    st.builds(FlowPeer, texts),
    http=st.none() | st.builds(HttpSummary, texts, texts, texts, st.integers(0, 999)),
    dns=st.none() | st.builds(DnsSummary, texts, texts, texts),
    detail=texts,
)
to_process = st.one_of(
    st.just(wire.Prepare(SNAPSHOT)),
    st.builds(wire.Commit, numbers),
    st.builds(wire.Abort, numbers),
    st.builds(wire.Ask, numbers, texts),
    st.builds(wire.Shutdown, st.floats(0, 60)),
)
to_agent = st.one_of(
    st.builds(wire.Hello, numbers, texts, st.integers(0, 7), numbers, texts, numbers),
    st.builds(wire.Prepared, numbers, texts),
    st.builds(wire.Flows, st.lists(flows, max_size=4), numbers),
    st.builds(wire.Answer, numbers, st.none() | st.lists(texts) | st.dictionaries(texts, numbers)),
)
Reading = Callable[[asyncio.StreamReader], Awaitable[Any]]


def received(data: bytes, cuts: list[int], read: Reading) -> list[Any]:
    """What the other side makes of these bytes, cut at these places."""

    async def scenario() -> list[Any]:
        reader = asyncio.StreamReader()

        async def feed() -> None:
            edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
            for begin, end in itertools.pairwise(edges):
                reader.feed_data(data[begin:end])
                await asyncio.sleep(0)
            reader.feed_eof()

        async def collect() -> list[Any]:
            messages = []
            while (message := await read(reader)) is not None:
                messages.append(message)
            return messages

        return (await asyncio.gather(collect(), feed()))[0]

    return run(scenario())


def run(scenario: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    with asyncio.Runner() as runner:
        return runner.run(scenario)


@settings(max_examples=100, deadline=None)
@given(st.lists(to_process, max_size=5), st.lists(st.integers(0, 10**6), max_size=12))
def test_what_the_agent_says_arrives_however_it_is_cut(messages: list[wire.ToProcess], cuts: list[int]) -> None:
    assert received(b"".join(map(wire.frame, messages)), cuts, wire.read_from_agent) == messages


@settings(max_examples=100, deadline=None)
@given(st.lists(to_agent, max_size=5), st.lists(st.integers(0, 10**6), max_size=12))
def test_what_a_process_says_arrives_however_it_is_cut(messages: list[wire.ToAgent], cuts: list[int]) -> None:
    assert received(b"".join(map(wire.frame, messages)), cuts, wire.read_from_process) == messages


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_other_bytes_are_an_error_or_the_end_and_never_a_crash(data: bytes, framed: bool) -> None:
    if framed:
        data = len(data).to_bytes(4, "big") + data
    for read in (wire.read_from_agent, wire.read_from_process):
        with contextlib.suppress(wire.WireError):
            received(data, [], read)


@pytest.mark.parametrize("size", [wire.MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_that_claims_to_be_huge_is_refused_before_it_is_read(size: int) -> None:
    with pytest.raises(wire.WireError, match=f"frame of {size} bytes"):
        received(size.to_bytes(4, "big") + b"x", [], wire.read_from_agent)


def test_a_frame_that_is_cut_off_is_the_end() -> None:
    whole = wire.frame(wire.Commit(7))
    for length in range(len(whole)):
        assert received(whole[:length], [], wire.read_from_agent) == []
