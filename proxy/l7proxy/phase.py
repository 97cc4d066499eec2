# SPDX-License-Identifier: Apache-2.0
"""Where an exchange stands, seen from either side. `exchange` alone moves from one to the next."""

import enum


class Phase(enum.Enum):
    """What is expected of the client."""

    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()
    """Nothing: its request is complete and the answer is not."""
    REFUSED_BODY = enum.auto()
    TUNNEL = enum.auto()
    CLOSING = enum.auto()
    """Nothing more; what still comes is thrown away."""
    CLOSED = enum.auto()


class Link(enum.Enum):
    """The connection to the server."""

    NONE = enum.auto()
    CONNECTING = enum.auto()
    OPEN = enum.auto()
    ENDED = enum.auto()
    """The server sent FIN into a tunnel."""
    CLOSED = enum.auto()
