# SPDX-License-Identifier: Apache-2.0
"""How pinned links are called: whose they are, and which program they hold. Nowhere else are such names made or read.

``endpoint_7_from``, ``cgroup_8_egress``, ``uplink_2_to``; ``steer``, of which there is one. A draft has the number of
the process that made it behind its name, until it is renamed.
"""

import re
from dataclasses import dataclass
from typing import Literal, Self

Owner = Literal["endpoint", "cgroup", "uplink"]

STEER = "steer"
_NAME = re.compile(r"(endpoint|cgroup|uplink)_(\d+)_(from|to|ingress|egress)")
_DRAFT = re.compile(r"(.+)_\d+")


@dataclass(frozen=True, slots=True)
class LinkName:
    """Of a link that belongs to something with a number."""

    owner: Owner
    number: int
    """Of the endpoint, also of one that is a cgroup, or an uplink's index."""
    hook: str
    """``from``, ``to``, ``ingress`` or ``egress``."""

    @classmethod
    def of(cls, owner: Owner, number: int, program: str) -> Self:
        """The link that holds this program there."""
        hook, _, side = program.partition("_")
        return cls(owner, number, side if owner == "cgroup" else hook)

    @classmethod
    def read(cls, name: str) -> Self | None:
        """None for another name."""
        match = _NAME.fullmatch(name)
        return cls(match[1], int(match[2]), match[3]) if match else None  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.owner}_{self.number}_{self.hook}"


def draft(name: str, process: int) -> str:
    """What a process calls a link until it takes the place of the one before."""
    return f"{name}_{process}"


def drafted(name: str) -> str:
    """What a draft is to become, empty for a name that is none."""
    match = _DRAFT.fullmatch(name)
    return match[1] if match and (match[1] == STEER or LinkName.read(match[1])) else ""
