# SPDX-License-Identifier: Apache-2.0
"""IP prefixes of policies: ``toCIDR``, ``toCIDRSet``, ``ipBlock``.

Failure verdict: ValueError with a text that says what is wrong, or a mistake in the `Reader`.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import partial
from typing import Final

from l7policy.model import CidrPeer
from l7policy.reader import Reader
from l7policy.yamltree import Node

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREFIX: Final = re.compile(r"[0-9a-fA-F:.]+/[0-9]{1,3}")
_ADDRESS: Final = re.compile(r"[0-9a-fA-F:.]+")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def network(text: str) -> Network:
    """``192.0.2.0/24``; the prefix length must be there. Bits behind it are cleared, as Cilium does."""
    if not _PREFIX.fullmatch(text):
        hint = " (an address alone needs /32 or /128)" if _ADDRESS.fullmatch(text) else ""
        raise ValueError(f"{text[:80]!r} is not a prefix like 192.0.2.0/24{hint}")
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not a prefix like 192.0.2.0/24 or 2001:db8::/32") from None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        raise ValueError(f"{text[:80]!r} maps IPv4 into IPv6; no packet carries that, write the IPv4 prefix")
    return found


def is_inside(inner: Network, outer: Network) -> bool:
    """Whether `outer` holds all of `inner`."""
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def contained(inner: Network, outer: Network) -> None:
    """Checks that an ``except`` carves something out of its own prefix."""
    if inner.version != outer.version:
        raise ValueError(f"{inner} and {outer} are of different IP versions")
    if not is_inside(inner, outer):
        raise ValueError(f"{inner} is not inside of {outer}")


def cidr(text: str) -> CidrPeer:
    """A peer from one prefix."""
    return CidrPeer(str(network(text)))


def block(reader: Reader, node: Node, excepts: Iterable[Node]) -> CidrPeer | None:
    """A peer from a prefix with parts carved out of it."""
    outer = reader.checked(node, "cidr", network)
    carved = []
    for element in excepts:
        inner = reader.checked(element, "except", network)
        if inner is not None and outer is not None:
            reader.attempt(element, "except", partial(contained, inner, outer))
            carved.append(str(inner))
    return None if outer is None else CidrPeer(str(outer), tuple(sorted(set(carved))))
