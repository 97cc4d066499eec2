# SPDX-License-Identifier: Apache-2.0
"""Flows as bytes: how a busy process hands them on without making an object of each, and how they become flows again.

A row is one flow in msgpack, a batch is an array of rows. Most rows of a connection differ in the time, in how long
the answer took and in the request: the rest is encoded once (`Template`) and copied.

Failure verdict: bytes that are no batch of this version's flows raise `msgspec.MsgspecError` when they are decoded.
"""

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from l7observe.flow import Flow, HttpSummary

_FIXED_MAP: Final = 16
"""From so many entries on, a map of msgpack tells their number in bytes of its own."""

_encode = msgspec.msgpack.Encoder().encode
_row_decoder: msgspec.msgpack.Decoder[Flow] = msgspec.msgpack.Decoder(Flow)
_decoder: msgspec.msgpack.Decoder[list[Flow]] = msgspec.msgpack.Decoder(list[Flow])

_TIME: Final = _encode("time") + b"\xcb"  # a float of eight bytes follows
_LATENCY: Final = _encode("latency_ns") + b"\xcf"  # an unsigned integer of eight bytes follows
_HTTP: Final = _encode("http")
_pack = struct.Struct(f">d{len(_LATENCY)}sQ{len(_HTTP)}s").pack


def row(flow: Flow) -> bytes:
    """One flow."""
    return _encode(flow)


def flow(row: bytes) -> Flow:
    """The flow of a row. Raises `msgspec.MsgspecError`."""
    return _row_decoder.decode(row)


def part(http: HttpSummary) -> bytes:
    """A request, for a row that is made by its template."""
    return _encode(http)


def batch(rows: Sequence[bytes]) -> bytes:
    """Many rows."""
    return b"\xdd" + len(rows).to_bytes(4, "big") + b"".join(rows)


def flows(batch: bytes) -> list[Flow]:
    """The flows of a batch. Raises `msgspec.MsgspecError`."""
    return _decoder.decode(batch)


class Template:
    """What the rows of a connection have in common."""

    __slots__ = ("_start",)

    def __init__(self, flow: Flow) -> None:
        """`flow`: one of them; its time, latency and request do not matter."""
        fields = msgspec.to_builtins(flow)
        for varying in ("time", "latency_ns", "http"):
            fields.pop(varying, None)
        number = len(fields) + 3
        head = bytes([0x80 | number]) if number < _FIXED_MAP else b"\xde" + number.to_bytes(2, "big")
        entries = b"".join(_encode(name) + _encode(value) for name, value in fields.items())
        self._start = head + entries + _TIME

    def row(self, time: float, latency_ns: int, request: bytes) -> bytes:
        """The row of one more. `latency_ns` is not negative; `request` is as `part` makes it."""
        return self._start + _pack(time, _LATENCY, latency_ns, _HTTP) + request
