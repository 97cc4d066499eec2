# SPDX-License-Identifier: Apache-2.0
"""What the API shows of the kernel's tables, as they are and not as they should be. Shapes: docs/reference/api.md."""

import ipaddress
import time
from typing import Any

from l7agent.agent import Agent
from l7agent.endpoints import Endpoint
from l7bpf.flows import (
    CONNTRACK_DENIED,
    CONNTRACK_FROM_NODE,
    CONNTRACK_GUESSED,
    CONNTRACK_LOCAL,
    ConntrackEntry,
    ConntrackKey,
)
from l7bpf.layouts import IpcacheEntry
from l7policy.verdict import Direction, Protocol, ProxyKind

View = dict[str, Any]
VERDICTS = ("allow", "deny", "redirect")
FLOW_FLAGS = {
    CONNTRACK_LOCAL: "local",
    CONNTRACK_FROM_NODE: "from-node",
    CONNTRACK_DENIED: "denied",
    CONNTRACK_GUESSED: "guessed",
}


def _ports(first: int, bits: int) -> str:
    last = first | (0xFFFF >> bits)
    if bits == 0:
        return "any"
    return str(first) if first == last else f"{first}-{last}"


def policy(agent: Agent, endpoint: Endpoint | None) -> list[View]:
    """The kernel's verdict entries, as they are in the kernel."""
    users: dict[int, list[str]] = {}
    for one in agent.endpoints:
        users.setdefault(agent.kernel.policy_of(one.id), []).append(one.declared.name)
    wanted = None if endpoint is None else agent.kernel.policy_of(endpoint.id)
    return [
        {
            "policy_id": key.policy_id,
            "endpoints": users.get(key.policy_id, []),
            "direction": Direction(key.direction).name.lower(),
            "identity": key.identity,
            "labels": list(agent.kernel.labels_of(key.identity)) if key.identity else ["any"],
            "protocol": Protocol(key.protocol).name if key.protocol else "ANY",
            "port": _ports(key.port, key.port_bits),
            "verdict": VERDICTS[entry.verdict],
            "proxy": ProxyKind(entry.proxy).name.lower(),
            "precedence": entry.precedence,
            "packets": entry.packets,
            "bytes": entry.octets,
            "rule": agent.auditing.origin(entry.cookie),
        }
        for key, entry in agent.kernel.policy_entries()
        if wanted is None or key.policy_id == wanted
    ]


def ipcache(agent: Agent) -> list[View]:
    """The kernel's prefixes."""
    return [_prefix(agent, prefix, row) for prefix, row in agent.kernel.ipcache()]


def _prefix(agent: Agent, prefix: str, row: IpcacheEntry) -> View:
    return {
        "prefix": prefix,
        "identity": row.identity,
        "established": row.established,
        "labels": list(agent.kernel.labels_of(row.identity)),
    }


def covering(agent: Agent, address: str) -> View | None:
    """The longest prefix that covers the address, as a packet finds it; None: there is none, it is the world's.

    Blocks while it reads the table.
    """
    wanted = ipaddress.ip_network(address, strict=False)
    best: tuple[int, str, IpcacheEntry] | None = None
    for prefix, row in agent.kernel.ipcache():
        network = ipaddress.ip_network(prefix)
        if network.version == wanted.version and wanted.subnet_of(network):  # type: ignore[arg-type]
            found = network.prefixlen, prefix, row
            best = found if best is None or found[0] > best[0] else best
    return None if best is None else _prefix(agent, best[1], best[2])


def names(agent: Agent) -> dict[str, str]:
    """Name of the workload behind each address."""
    return {a: one.declared.name for one in agent.endpoints if one.attachment for a in one.attachment.addresses}


def conntrack(agent: Agent, known: dict[str, str], endpoint: str) -> list[View]:
    """Flows that were judged, those heard of last first. `known`: see `names`; `endpoint`: whose, or of all.

    Blocks while it reads the table.
    """
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    flows = [
        _flow(key, entry, known, now)
        for key, entry in agent.kernel.flows()
        if not endpoint or endpoint in (known.get(key.source), known.get(key.destination))
    ]
    return sorted(flows, key=lambda flow: float(flow["idle"]))


def _flow(key: ConntrackKey, entry: ConntrackEntry, names: dict[str, str], now: int) -> View:
    return {
        "protocol": _protocol(key.protocol),
        "source": key.source,
        "source_port": key.source_port,
        "source_name": names.get(key.source, ""),
        "destination": key.destination,
        "destination_port": key.destination_port,
        "destination_name": names.get(key.destination, ""),
        "proxy": _proxy(entry.proxy),
        "upstream": bool(entry.upstream),
        "flags": [name for bit, name in FLOW_FLAGS.items() if entry.flags & bit],
        "packets": entry.packets,
        "bytes": entry.octets,
        "idle": round(max(0, now - entry.last_seen_ns) / 1e9, 3),
        "revision": entry.revision,
    }


def _protocol(number: int) -> str:
    try:
        return Protocol(number).name
    except ValueError:
        return str(number)


def _proxy(number: int) -> str:
    try:
        return ProxyKind(number).name.lower()
    except ValueError:
        return str(number)
