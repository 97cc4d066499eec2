# SPDX-License-Identifier: Apache-2.0
"""The routes that take marked packets to the proxies, and the settings of the node they need.

In the calling thread's network namespace; idempotent both ways. Failure verdict: `DatapathError`; without these routes
marked packets reach nobody, so that flows which need a proxy fail closed.

Per family there are three rules. Packets marked for the proxy look up table 2004, where every address is local. Lookups
*about* such packets that start at the node itself (reverse path checks that look at marks, resets that copy them) begin
at ``iif lo`` and must see the ordinary routes: so no reverse path filter needs to be loosened, whatever its setting.
Packets of the node's own processes come back over the loopback, and have a mark of their own.
"""

import errno
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from l7bpf.errors import DatapathError
from l7bpf.layouts import MARK_FROM_HOST, MARK_MASK, MARK_TO_PROXY

TABLE: Final = 2004
RULE_PRIORITY: Final = 9
_EXEMPT_PRIORITY: Final = 8
_TABLE_MAIN = 254
_RTN_LOCAL = 2
_SCOPE_HOST = 254
_LOOPBACK = 1
_THERE, _GONE = frozenset({errno.EEXIST}), frozenset({errno.ENOENT, errno.ESRCH})
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

SYSCTLS: Final = {
    # A socket in TIME_WAIT from a proxied connection would swallow a later direct one of the same tuple.
    "net/ipv4/tcp_early_demux": "0",
    # Connections that wait in the queue of a proxy that ends go to another one instead of being reset.
    "net/ipv4/tcp_migrate_req": "1",
    # What the node's own processes send to a proxy comes in again over the loopback, from the node's own address.
    "net/ipv4/conf/lo/accept_local": "1",
}


def add(saved: Mapping[str, str] | None = None) -> dict[str, str]:
    """Sets all up. Returns the settings' values from before, for `remove`: keep them, and give them back here."""
    before = dict(saved or {})
    try:
        for name, wanted in SYSCTLS.items():
            path = Path("/proc/sys") / name
            now = path.read_text().strip()
            before.setdefault(name, now)
            if now != wanted:
                path.write_text(wanted)
        with IPRoute() as netlink:
            for family in _FAMILIES:
                _quietly(netlink, _THERE, "route", "add", _route(family))
                for rule in _rules(family):
                    _quietly(netlink, _THERE, "rule", "add", rule)
    except OSError as error:
        raise DatapathError(f"the node's settings cannot be changed: {error}") from error
    except NetlinkError as error:
        raise DatapathError(f"the routes to the proxies cannot be set: {error}") from error
    return before


def remove(saved: Mapping[str, str] | None = None) -> None:
    """Takes all away, and restores the settings that `add` returned."""
    try:
        with IPRoute() as netlink:
            for family in _FAMILIES:
                for rule in _rules(family):
                    _quietly(netlink, _GONE, "rule", "del", rule)
                _quietly(netlink, _GONE, "route", "del", _route(family))
        for name, value in (saved or {}).items():
            if name in SYSCTLS:
                (Path("/proc/sys") / name).write_text(value)
    except OSError as error:
        raise DatapathError(f"the node's settings cannot be restored: {error}") from error
    except NetlinkError as error:
        raise DatapathError(f"the routes to the proxies cannot be removed: {error}") from error


def _route(family: int) -> dict[str, object]:
    return {
        "family": family,
        "table": TABLE,
        "type": _RTN_LOCAL,
        "dst": "0.0.0.0/0" if family == socket.AF_INET else "::/0",
        "oif": _LOOPBACK,
        **({"scope": _SCOPE_HOST} if family == socket.AF_INET else {}),
    }


def _rules(family: int) -> tuple[dict[str, object], ...]:
    marked = {"family": family, "fwmark": MARK_TO_PROXY, "fwmask": MARK_MASK}
    return (
        {**marked, "priority": _EXEMPT_PRIORITY, "iifname": "lo", "table": _TABLE_MAIN},
        {**marked, "priority": RULE_PRIORITY, "table": TABLE},
        {**marked, "fwmark": MARK_FROM_HOST, "priority": RULE_PRIORITY, "iifname": "lo", "table": TABLE},
    )


def _quietly(netlink: IPRoute, already: frozenset[int], kind: str, verb: str, arguments: dict[str, object]) -> None:
    try:
        getattr(netlink, kind)(verb, **arguments)
    except NetlinkError as error:
        if error.code not in already:
            raise
