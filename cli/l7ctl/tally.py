# SPDX-License-Identifier: Apache-2.0
"""Tally: what one workload did, counted from the records of its flows, and the policy that would allow just that.

Takes records and gives values and text: it opens nothing. Packets count by the verdict on a flow's first one, requests
and queries each. Addresses are told by the names that the workload's own answers gave them. What a tally knows of is
bounded (`LIMIT`): flows of further kinds are counted together.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from l7observe.columns import Column, Columns
from l7observe.record import PASSED, AuditRecord
from l7policy.verdict import Reason

LIMIT: Final = 1000
_JUDGED_AT_START: Final = {Reason.POLICY_DENIED.name, Reason.POLICY_DENY.name}
_HOST: Final = 1
_PASSED: Final = {verdict.name for verdict in PASSED}


@dataclass(slots=True)
class Line:
    """Flows that are alike."""

    verdict: str
    direction: str
    what: str
    """``api.example.com:443/TCP``, ``GET api.example.com/``, ``DNS api.example.com``."""
    because: str
    """The rule, or why there was none."""
    count: int = 0


COLUMNS: Final = Columns[Line](
    Column("verdict", "VERDICT", "What became of it", lambda line: line.verdict),
    Column("what", "WHAT", "Where to, the request or the name", lambda line: line.what, width=70),
    Column("count", "COUNT", "How often", lambda line: line.count, justify="right"),
    Column("because", "BECAUSE", "The rule, or the reason", lambda line: line.because),
)


@dataclass(slots=True)
class Tally:
    """The counts of one workload."""

    endpoint: str
    lines: dict[tuple[str, str, str, str], Line] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Address → the name that led to it."""
    asked: dict[str, None] = field(default_factory=dict)
    """Names that were asked for."""
    resolvers: dict[str, None] = field(default_factory=dict)
    reached: dict[tuple[str, int, str], None] = field(default_factory=dict)
    """Address, port and protocol of what the workload began."""
    others: int = 0
    """Flows over `LIMIT`."""
    lost: int = 0
    """Flows that were not told of."""
    broken: str = ""
    """Why what came later is not known; empty if all of it was told."""

    def add(self, record: AuditRecord) -> None:
        """One record; those of others are passed over."""
        if record.endpoint.name != self.endpoint:
            return
        if record.dns:
            self._dns(record)
        elif record.http:
            self._count(record, f"{record.http.method} {record.http.host}{record.http.path}")
        elif record.tls:
            self._count(record, f"TLS {record.tls.sni or 'without a name'}")
        elif record.type == "policy-verdict":
            self._flow(record)
        elif record.type == "drop" and record.reason not in _JUDGED_AT_START:
            self._count(record, self._where(record))

    @property
    def denied(self) -> int:
        """Flows that were denied, or would have been."""
        return sum(line.count for line in self.lines.values() if line.verdict not in _PASSED)

    def sorted(self) -> list[Line]:
        """What was denied first, and most often first."""
        return sorted(self.lines.values(), key=lambda line: (line.verdict in _PASSED, -line.count, line.what))

    def plain(self) -> dict[str, Any]:
        """As values for programs."""
        return {
            "endpoint": self.endpoint,
            "denied": self.denied,
            "flows": COLUMNS.records(self.sorted()),
            "names": sorted(self.asked),
            "others": self.others,
            "lost": self.lost,
            "complete": not (self.broken or self.lost),
        }

    def policy(self, labels: Mapping[str, str], name: str) -> str:
        """YAML of a policy for workloads with these labels that allows to begin just what was begun."""
        resolving = {
            "ports": [_port(53, "ANY")],
            "rules": {"dns": [{"matchName": name} for name in sorted(self.asked)]},
        }
        egress = [{**towards, "toPorts": [resolving]} for towards in _towards(self.resolvers)]
        by_ports: dict[tuple[tuple[int, str], ...], list[str]] = {}
        for peer, ports_of in sorted(self._peers().items()):
            by_ports.setdefault(tuple(sorted(ports_of)), []).append(peer)
        for reached, peers in by_ports.items():
            ports = {"ports": [_port(*one) for one in reached]}
            egress += [{**towards, "toPorts": [ports]} for towards in _towards(peers)]
        document = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": name},
            "spec": {"endpointSelector": {"matchLabels": dict(labels)}, "egress": egress},
        }
        return yaml.dump(document, Dumper=_Plain, sort_keys=False)

    def _peers(self) -> dict[str, set[tuple[int, str]]]:
        found: dict[str, set[tuple[int, str]]] = {}
        for address, port, protocol in self.reached:
            if protocol in ("TCP", "UDP", "SCTP") and not (port == 53 and address in self.resolvers):
                found.setdefault(self.names.get(address, address), set()).add((port, protocol))
        return found

    def _dns(self, record: AuditRecord) -> None:
        assert record.dns  # noqa: S101 - the caller has looked
        if len(self.asked) < LIMIT and record.dns.query:
            self.asked[record.dns.query] = None
        if len(self.resolvers) < LIMIT:
            self.resolvers[record.destination.address] = None
        for address in record.dns.addresses or ():
            if len(self.names) < LIMIT:
                self.names[address] = record.dns.query
        self._count(record, f"DNS {record.dns.query} {record.dns.qtype}".strip())

    def _flow(self, record: AuditRecord) -> None:
        port = record.destination.port
        if record.direction == "egress" and port and len(self.reached) < LIMIT:
            self.reached[record.destination.address, port, record.protocol] = None
        if record.proxy and record.verdict in _PASSED:
            return  # what it carries is counted
        self._count(record, self._where(record))

    def _where(self, record: AuditRecord) -> str:
        peer = record.destination if record.direction == "egress" else record.source
        name = peer.name or self.names.get(peer.address) or peer.address
        host = f"[{name}]" if ":" in name else name
        arrow = "" if record.direction == "egress" else "from "
        port = record.destination.port
        return f"{arrow}{host}:{port}/{record.protocol}" if port else f"{arrow}{host} {record.protocol}"

    def _count(self, record: AuditRecord, what: str) -> None:
        because = record.rule or ("" if record.verdict in _PASSED else record.reason)
        key = (record.verdict, record.direction, what, because)
        line = self.lines.get(key)
        if line is None:
            if len(self.lines) >= LIMIT:
                self.others += 1
                return
            line = self.lines[key] = Line(*key)
        line.count += 1


class _Plain(yaml.SafeDumper):
    """Writes what is said twice twice: people read it."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - as PyYAML calls it
        return True


def _port(number: int, protocol: str) -> dict[str, str]:
    return {"port": str(number), "protocol": protocol}


def _towards(peers: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The peers of one rule each, by kind. Addresses of this machine are the entity host: no CIDR ever matches them."""
    names, prefixes, here = [], [], False
    for peer in peers:
        try:
            prefix = ipaddress.ip_network(peer)
        except ValueError:
            names.append({"matchName": peer})
            continue
        if prefix.is_loopback:
            here = True
        else:
            prefixes.append(str(prefix))
    if names:
        yield {"toFQDNs": names}
    if prefixes:
        yield {"toCIDR": sorted(prefixes)}
    if here:
        yield {"toEntities": ["host"]}
