# SPDX-License-Identifier: Apache-2.0
"""Flows as JSON lines over the API: `GET /v1/flows`. Shapes: docs/reference/api.md.

The first line says which agent it is and what it knows was lost; then come flows as audit records, and a line for each
loss. A listener that is slow loses flows, and is told; it holds nobody up.
"""

import os
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import msgspec

from l7agent.observation import Observation
from l7observe import flowlines
from l7observe.flow import FlowType
from l7observe.flowfilter import FlowFilter
from l7observe.hub import RING

_ENDS: Final = {"from": "sources", "to": "destinations", "related": "related"}
_KNOWN: Final = {"type", "last", "follow", *_ENDS}


class BadQuery(Exception):
    """The query string asks for something that is not there."""


class Wish(msgspec.Struct, frozen=True):
    """What a listener wants."""

    wanted: FlowFilter
    last: int
    """How many of the flows that were kept come first."""
    follow: bool


def wish(query: Mapping[str, list[str]]) -> Wish:
    """Reads a query string's values. Raises BadQuery."""
    if unknown := query.keys() - _KNOWN:
        raise BadQuery(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(_KNOWN))}")
    try:
        types = frozenset(FlowType(value) for value in query.get("type", ()))
    except ValueError as error:
        raise BadQuery(f"type: {error}; known: {', '.join(FlowType)}") from error
    try:
        last = int(query.get("last", ["0"])[-1])
    except ValueError as error:
        raise BadQuery("last: must be a number") from error
    follow = query.get("follow", ["false"])[-1]
    if follow not in ("true", "false"):
        raise BadQuery("follow: must be true or false")
    ends = {field: frozenset(query.get(name, ())) for name, field in _ENDS.items()}
    return Wish(FlowFilter(types, **ends), max(0, min(last, RING)), follow == "true")


async def lines(observation: Observation, asked: Wish, node: str) -> AsyncGenerator[bytes]:
    """The stream's lines, in batches. Raises TooManySubscribers before the first."""
    hub = observation.hub
    subscription = hub.subscribe(asked.wanted) if asked.follow else None
    try:
        known = {"kernel": observation.kernel_lost, "proxies": observation.proxies_lost}
        start = flowlines.encode(flowlines.Start(node, os.getpid(), known))
        yield start + b"".join(flowlines.encode(flow, node) for flow in hub.recent(asked.wanted, asked.last))
        while subscription is not None and (batch := await subscription.batch()):
            yield b"".join(flowlines.encode(one, node) for one in batch)
    finally:
        if subscription is not None:
            subscription.close()
