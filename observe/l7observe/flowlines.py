# SPDX-License-Identifier: Apache-2.0
"""Flow lines: what a stream of flows consists of (`GET /v1/flows`, docs/reference/api.md), written and read again.

The first line says which agent it is; then come records of flows, and a line for each loss. May not do I/O. Failure
verdict: a line that is none of these is None; what to do about it is the reader's to say.
"""

from typing import Final

import msgspec

from l7observe import record
from l7observe.flow import Flow
from l7observe.hub import Lost
from l7observe.record import AuditRecord

_SOURCES: Final = {
    "subscriber": "this command was too slow",
    "kernel": "the kernel's ring was full or the rate exceeded",
    "proxy": "a proxy's buffer was full",
    "restart": "while l7d was away",
}


class Start(msgspec.Struct, frozen=True, tag="start", tag_field="type"):
    """The first line."""

    node: str
    agent: int
    """Its pid."""
    lost: dict[str, int]
    """By source: what it knows was lost since it began."""


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Start | Lost] = msgspec.json.Decoder(Start | Lost)


def encode(one: Flow | Lost | Start, node: str = "") -> bytes:
    """One line, its end included. A flow whose time no calendar has is lost."""
    if isinstance(one, Flow):
        try:
            return record.encode(record.from_flow(one, node))
        except (ValueError, OverflowError):
            one = Lost("subscriber", 1)
    return _encoder.encode(one) + b"\n"


def decode(line: bytes) -> AuditRecord | Lost | Start | None:
    """What a line says; None if it is torn, or written by somebody else."""
    found = record.decode(line)
    if found is not None:
        return found
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def sentence(lost: Lost) -> str:
    """A loss as people read it."""
    return f"lost {lost.count} flows: {_SOURCES.get(lost.source, lost.source)}"
