# SPDX-License-Identifier: Apache-2.0
"""Demand: whether anybody wants records of what passes. A proxy asks before it makes one."""


class Demand:
    """Shared by a process's wire to the agent, which sets it, and its server, which asks at each request's end."""

    __slots__ = ("forwarded",)

    def __init__(self, forwarded: bool = False) -> None:
        self.forwarded = forwarded
        """Records of requests that were allowed are wanted. Denies are recorded whatever this says."""
