# SPDX-License-Identifier: Apache-2.0
"""Demand: whether anybody wants records of what passes. A proxy asks before it makes one; it counts in any case."""

from l7observe.tally import Tally


class Demand:
    """Shared by a process's wire to the agent, which sets it, and its server, which asks at each request's end."""

    __slots__ = ("forwarded", "tally")

    def __init__(self, forwarded: bool = False) -> None:
        self.forwarded = forwarded
        """Records of requests that were allowed are wanted. Denies are recorded whatever this says."""
        self.tally = Tally()
        """What the process judged, recorded or not."""
