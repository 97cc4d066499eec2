# SPDX-License-Identifier: Apache-2.0
"""What the API shows of names, as plain values, from what the DNS process tells. Shapes: docs/reference/api.md."""

from collections.abc import Iterable, Mapping
from typing import Any

from l7agent.endpoints import Endpoints
from l7bpf.maps import Maps
from l7policy import ids
from l7policy.model import EndpointPolicy, FqdnPeer, Rule
from l7policy.names import name_set
from l7policy.verdict import Direction, Protocol, ProxyKind

View = dict[str, Any]
Policies = Mapping[ids.EndpointId, EndpointPolicy]
Users = Mapping[int, list[str]]
"""The names of each policy id's endpoints."""


def _name(endpoints: Endpoints, number: int) -> str:
    endpoint = endpoints.get(ids.EndpointId(number))
    return endpoint.declared.name if endpoint is not None else ""


def _open_for(users: Users, row: View) -> list[str]:
    """The workloads for which the address counts as the name."""
    return sorted({one for number in row["policies"] for one in users.get(number, ())})


def _resolver(row: View) -> str:
    if not row["server"]:
        return ""
    return f"[{row['server']}]:{row['port']}" if ":" in row["server"] else f"{row['server']}:{row['port']}"


def owners_of(endpoints: Endpoints) -> dict[str, str]:
    """Name of the workload behind each address."""
    return {
        address: endpoint.declared.name
        for endpoint in endpoints
        if endpoint.attachment is not None
        for address in endpoint.attachment.addresses
    }


def cache(endpoints: Endpoints, users: Users, rows: list[View]) -> list[View]:
    """What is learnt, a row for each workload that asked; and what is kept for the connections of one."""
    rows.sort(key=lambda row: (row["name"], row["address"], row["server"]))
    owners = owners_of(endpoints)
    return [
        {
            "endpoint": who,
            "source": "connection" if row["kept"] else "lookup" if row["server"] else "operator",
            "name": row["name"],
            "address": row["address"],
            "ttl": round(row["ttl"], 1),
            "expires": round(row["expires"], 1),
            "identity": row["identity"],
            "selectors": row["selectors"],
            "resolver": _resolver(row),
            "open_for": _open_for(users, row),
        }
        for row in rows
        for who in (
            [owners.get(client, "") for client in row["clients"] or ("",)]
            if row["kept"]
            else [_name(endpoints, number) for number in row["endpoints"]]
        )
    ]


def names(selectors: Iterable[FqdnPeer], rows: list[View]) -> list[View]:
    """Every selector of the policies in force, with what it matches at present."""
    found: dict[str, View] = {
        peer.label: {"selector": peer.label.removeprefix("fqdn:"), "names": set(), "addresses": set()}
        for peer in selectors
    }
    for row in rows:
        for label in row["selectors"]:
            if label in found:
                found[label]["names"].add(row["name"])
                found[label]["addresses"].add(row["address"])
    return [
        {**view, "names": sorted(view["names"]), "addresses": sorted(view["addresses"])}
        for view in sorted(found.values(), key=lambda one: str(one["selector"]))
    ]


def explain(name: str, endpoints: Endpoints, policies: Policies, users: Users, rows: list[View]) -> View:
    """Which patterns match a canonical name and which do not, for whom; and where it leads at present."""
    patterns: dict[tuple[str, str], View] = {}
    for number, policy in policies.items():
        for rule in policy.rules:
            for kind, peer in _name_peers(rule):
                label = peer.label.removeprefix("fqdn:")
                view = patterns.setdefault(
                    (kind, label),
                    {
                        "pattern": label,
                        "in": kind,
                        "matches": name_set((peer,)).matches(name),
                        "rules": set(),
                        "endpoints": set(),
                    },
                )
                view["rules"].add(str(rule.origin))
                view["endpoints"].add(_name(endpoints, number))
    return {
        "name": name.rstrip(".") or ".",
        "patterns": [
            {**view, "rules": sorted(view["rules"]), "endpoints": sorted(view["endpoints"])}
            for view in sorted(patterns.values(), key=lambda one: (not one["matches"], one["in"], one["pattern"]))
        ],
        "addresses": [
            {
                "address": row["address"],
                "ttl": round(row["ttl"], 1),
                "resolver": _resolver(row),
                "identity": row["identity"],
                "asked_by": sorted(_name(endpoints, number) for number in row["endpoints"]),
                "open_for": _open_for(users, row),
            }
            for row in rows
            if row["name"] == name.rstrip(".")
        ],
    }


def _name_peers(rule: Rule) -> Iterable[tuple[str, FqdnPeer]]:
    if rule.direction != Direction.EGRESS:
        return
    for peer in rule.dns or ():
        yield "rules.dns", peer
    for other in rule.peers or ():
        if isinstance(other, FqdnPeer):
            yield "toFQDNs", other


def unexplained(endpoints: Endpoints, maps: Maps, rows: list[View]) -> list[View]:
    """Flows of workloads to the world whose address no name was learnt for. Blocking: reads the whole conntrack table.

    DNS that goes through the proxy is left out: resolvers are asked by address.
    """
    known = {row["address"] for row in rows}
    owners = owners_of(endpoints)
    found: dict[tuple[str, str, int, int], View] = {}
    for key, entry in maps.conntrack.items():
        owner = owners.get(key.source)
        if owner is None or key.destination in known or entry.proxy == ProxyKind.DNS:
            continue
        if entry.upstream and not entry.proxy:
            continue  # a proxy's own socket with the workload's address, which asks on behalf of a flow of its own row
        row = maps.ipcache.get(key.destination)
        identity = ids.WORLD if row is None else row.identity
        if identity != ids.WORLD and not ids.FIRST_LOCAL_IDENTITY <= identity < ids.FIRST_FQDN_IDENTITY:
            continue
        port = key.destination_port if key.protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP) else 0
        view = found.setdefault(
            (owner, key.destination, key.protocol, port),
            {
                "endpoint": owner,
                "address": key.destination,
                "port": port,
                "protocol": Protocol(key.protocol).name if key.protocol in set(Protocol) else str(key.protocol),
                "identity": identity,
                "flows": 0,
                "packets": 0,
                "bytes": 0,
            },
        )
        view["flows"] += 1
        view["packets"] += entry.packets
        view["bytes"] += entry.octets
    return sorted(found.values(), key=lambda view: (str(view["endpoint"]), -int(view["bytes"])))
