# SPDX-License-Identifier: Apache-2.0
"""An element of Cilium's ``toPorts``: its ports, and its HTTP or DNS rules.

The semantics are Cilium 1.20's (pkg/policy/api/l4.go, http.go, fqdn.go, rule_validation.go).

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

from dataclasses import dataclass
from typing import Final

from l7policy import scalars
from l7policy.errors import did_you_mean
from l7policy.model import FqdnPeer, HeaderMatch, HttpRule, Port
from l7policy.reader import Reader, fields
from l7policy.verdict import Direction, Protocol
from l7policy.yamltree import Kind, Node

MAX_PORTS: Final = 40

_PORTS: Final = fields("ports rules", later="listener originatingTLS serverNames terminatingTLS")
_DENY_PORTS: Final = fields("ports", refused={"rules": "a deny rule drops packets and sees no requests"})
_PORT: Final = fields("port endPort protocol", required="port")
_RULES: Final = fields("http dns", later="kafka l7 l7proto")
_HTTP: Final = fields("method path host headers", later="headerMatches")
_FQDN: Final = fields("matchName matchPattern")
_PROTOCOLS: Final = {
    "ANY": Protocol.ANY,
    "SCTP": Protocol.SCTP,
    "TCP": Protocol.TCP,
    "UDP": Protocol.UDP,
}
_PROTOCOLS_LATER: Final = frozenset({"AH", "ESP", "GRE", "ICMP", "ICMPv6", "ICMPV6", "IGMP", "IPIP", "IPV6", "VRRP"})


@dataclass(frozen=True, slots=True)
class Ports:
    """What one element says."""

    ports: tuple[Port, ...]
    http: tuple[HttpRule, ...] | None = None
    dns: tuple[FqdnPeer, ...] | None = None


def read(reader: Reader, node: Node, direction: Direction, *, deny: bool) -> Ports:
    """One element of toPorts."""
    found = reader.mapping(node, "an element of toPorts", _DENY_PORTS if deny else _PORTS)
    elements = reader.sequence(found["ports"], "ports") if "ports" in found else ()
    if not elements and ("ports" in found or "ports" not in node.fields):
        # No ports select nothing in Cilium, but no ports in `model.Rule` are all of them. Nobody means the former.
        reader.fail(node, "an element of toPorts needs ports", "leave toPorts out for every port")
    if len(elements) > MAX_PORTS:
        reader.fail(found["ports"], f"{len(elements)} ports in one element; at most {MAX_PORTS} are allowed")
    pairs = [(element, port) for element in elements if (port := _port(reader, element)) is not None]
    ports = tuple(dict.fromkeys(port for _, port in pairs))
    if "rules" not in found:
        return Ports(ports)
    return _with_rules(reader, found["rules"], direction, pairs, ports)


def _port(reader: Reader, node: Node) -> Port | None:
    found = reader.mapping(node, "an element of ports", _PORT)
    protocol: Protocol | None = Protocol.ANY
    if "protocol" in found:
        protocol = reader.checked(found["protocol"], "protocol", _protocol)
    if "port" not in found:
        return None
    first = _number(reader, found["port"], "port", named=True)
    last = first
    if "endPort" in found and first is not None:
        last = _number(reader, found["endPort"], "endPort", named=False)
        if first == 0 and last:
            reader.fail(found["endPort"], "port 0 is every port and takes no endPort", "start the range at port 1")
        elif last == 0:
            last = first  # As in Cilium: an endPort of 0 is none.
        elif last is not None and last < first:
            reader.fail(found["endPort"], f"endPort {last} is lower than port {first}")
    if protocol is None or first is None or last is None:
        return None
    return Port(protocol) if first == 0 else Port(protocol, first, last)


def _number(reader: Reader, node: Node, what: str, *, named: bool) -> int | None:
    # Quotes or not: `port: 80` can mean nothing else, even though Kubernetes insists on quotes here.
    if node.kind not in {Kind.TEXT, Kind.INTEGER}:
        reader.fail(node, f"{what} must be a number, not {node.kind}")
        return None
    if named and scalars.is_port_name(node.text):
        reader.fail(node, f"{what}: names of ports are not supported yet", "write its number")
        return None
    return reader.attempt(node, what, lambda: scalars.port_number(node.text, lowest=0))


def _protocol(text: str) -> Protocol:
    if text in _PROTOCOLS:
        return _PROTOCOLS[text]
    if text in _PROTOCOLS_LATER:
        raise ValueError(f"{text} is not supported yet")
    raise ValueError(f"unknown protocol {text[:80]!r}; {did_you_mean(text, _PROTOCOLS)}")


def _with_rules(
    reader: Reader, node: Node, direction: Direction, pairs: list[tuple[Node, Port]], ports: tuple[Port, ...]
) -> Ports:
    found = reader.mapping(node, "rules", _RULES)
    if not node.fields:
        reader.fail(node, "rules is empty", "leave it out to allow everything on these ports")
    if "http" in found and "dns" in found:
        reader.fail(node.keys["dns"], "combining http and dns is not supported", "write two elements of toPorts")
        return Ports(ports)
    if "dns" in found:
        if direction == Direction.INGRESS:
            reader.fail(node.keys["dns"], "DNS rules are for egress only")
        _check_ports(reader, pairs, dns=True)
        return Ports(ports, dns=_dns_rules(reader, found["dns"]))
    if "http" in found:
        _check_ports(reader, pairs, dns=False)
        return Ports(ports, http=_http_rules(reader, found["http"]))
    return Ports(ports)


def _check_ports(reader: Reader, pairs: list[tuple[Node, Port]], *, dns: bool) -> None:
    allowed = {Protocol.TCP, Protocol.UDP, Protocol.ANY} if dns else {Protocol.TCP}
    for node, port in pairs:
        if port.protocol not in allowed:
            at = node.fields.get("protocol", node)
            message = f"L7 rules can only apply to TCP (not {port.protocol.name}) except for DNS rules"
            reader.fail(at, message, "write protocol: TCP")
        if port.first == 0:
            reader.fail(node.fields["port"], "L7 rules can not be used when a port is 0", "name the port")
        elif dns and port.first != port.last:
            reader.fail(node.fields["endPort"], "DNS rules do not support port ranges")


def _dns_rules(reader: Reader, node: Node) -> tuple[FqdnPeer, ...]:
    elements = reader.sequence(node, "dns")
    if not elements:
        reader.fail(node, "dns is empty", 'to allow and log every name write matchPattern: "*"')
    found = (fqdn(reader, element, "a DNS rule") for element in elements)
    return tuple(dict.fromkeys(peer for peer in found if peer is not None))


def fqdn(reader: Reader, node: Node, what: str) -> FqdnPeer | None:
    """A selector of names: one of matchName and matchPattern."""
    found = reader.mapping(node, what, _FQDN)
    if len(node.fields) > 1:
        reader.fail(node, f"{what} takes one of matchName and matchPattern, not both", "write two elements")
    elif not node.fields:
        reader.fail(node, f"{what} needs matchName or matchPattern")
    elif "matchName" in found:
        return reader.checked(found["matchName"], "matchName", scalars.match_name)
    elif "matchPattern" in found:
        return reader.checked(found["matchPattern"], "matchPattern", scalars.match_pattern)
    return None


def _http_rules(reader: Reader, node: Node) -> tuple[HttpRule, ...]:
    elements = reader.sequence(node, "http")
    if not elements:
        reader.fail(node, "http is empty", "to allow and log every request write http: [{}]")
    return tuple(dict.fromkeys(_http_rule(reader, element) for element in elements))


def _http_rule(reader: Reader, node: Node) -> HttpRule:
    found = reader.mapping(node, "an HTTP rule", _HTTP)
    texts = {
        name: reader.checked(found[name], name, scalars.expression) or ""
        for name in ("method", "path", "host")
        if name in found
    }
    headers = reader.sequence(found["headers"], "headers") if "headers" in found else ()
    matches = [_header(reader, element) for element in headers]
    return HttpRule(**texts, headers=tuple(dict.fromkeys(match for match in matches if match is not None)))


def _header(reader: Reader, node: Node) -> HeaderMatch | None:
    if node.kind is Kind.MAPPING and len(node.fields) == 1:
        ((name, value),) = node.fields.items()
        reader.fail(node, "header must be text, not a mapping", f'quote it: "{name[:40]}: {value.text[:40]}"')
        return None
    return reader.checked(node, "header", scalars.header)
