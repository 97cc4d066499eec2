# SPDX-License-Identifier: Apache-2.0
"""Messages between the agent and the data-plane processes, and how they are framed on a unix socket.

The process listens and the agent connects, so that a restarted agent finds the processes of the one before it. A frame
is a 4-byte big-endian length and a msgpack body. A frame over `MAX_FRAME` or that does not decode closes the
connection: the peer is another version, and the agent replaces it.
"""

import asyncio
from typing import Any, Final

import msgspec

from l7observe import flowbytes
from l7observe.flow import Flow
from l7policy.model import Snapshot

MAX_FRAME: Final = 256 << 20
PROTOCOL: Final = 3
"""Raised whenever a message changes its meaning; processes of another protocol are replaced, not adopted."""


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Agent → process: get ready to judge under this revision too. Answered by Prepared."""

    snapshot: Snapshot


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Agent → process: the kernel has flipped; forget older revisions."""

    revision: int


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Agent → process: the prepared revision will not come."""

    revision: int


class Observe(msgspec.Struct, frozen=True, tag="observe"):
    """Agent → process: whether records of what passes are wanted, too. Until told, and without an agent: no."""

    forwarded: bool


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Agent → process: a question, answered by Answer with the same number."""

    number: int
    question: str


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Agent → process: finish what is in flight for at most `drain` seconds, then exit."""

    drain: float


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Process → agent, first on each connection."""

    protocol: int
    kind: str
    slot: int
    pid: int
    version: str
    revision: int
    lost: int = 0
    """As in Flows."""
    guardian: int = 0
    """Pid of the process that starts this one again when it is killed, and ends with it; 0 if there is none."""


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """Process → agent: ready for the revision, or why not."""

    revision: int
    error: str = ""


class Flows(msgspec.Struct, frozen=True, tag="flows"):
    """Process → agent: records since the last batch. `lost` counts all that ever found the buffer full."""

    flows: list[Flow]
    """What did not simply pass."""
    lost: int
    passed: bytes = b""
    """What did, as a batch of `l7observe.flowbytes`: under load it is most of them, and mostly nobody ever looks at
    one."""
    count: int = 0
    """How many passed."""


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Process → agent: what was asked for, as plain values."""

    number: int
    value: Any


ToProcess = Prepare | Commit | Abort | Observe | Ask | Shutdown
ToAgent = Hello | Prepared | Flows | Answer

_encoder = msgspec.msgpack.Encoder()
_to_process: msgspec.msgpack.Decoder[ToProcess] = msgspec.msgpack.Decoder(ToProcess)
_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)


class WireError(Exception):
    """The other side speaks another version of these messages."""


def decoded(passed: bytes) -> list[Flow]:
    """The flows of `Flows.passed`. Raises WireError."""
    try:
        return flowbytes.flows(passed)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error


def frame(message: ToProcess | ToAgent) -> bytes:
    """The message as it goes on the socket."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def _body(reader: asyncio.StreamReader) -> bytes | None:
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        if length > MAX_FRAME:
            raise WireError(f"frame of {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def read_from_agent(reader: asyncio.StreamReader) -> ToProcess | None:
    """The agent's next message, None when it is gone. Raises WireError."""
    body = await _body(reader)
    try:
        return None if body is None else _to_process.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error


async def read_from_process(reader: asyncio.StreamReader) -> ToAgent | None:
    """The process's next message, None when it is gone. Raises WireError."""
    body = await _body(reader)
    try:
        return None if body is None else _to_agent.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error
