# SPDX-License-Identifier: Apache-2.0
"""An element of Cilium's ``toPorts`` or ``icmps``: its ports or types, and its DNS rules or server names.

The semantics are Cilium 1.20's (pkg/policy/api/l4.go, http.go, fqdn.go, rule_validation.go).

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

import functools
from dataclasses import dataclass
from functools import partial
from typing import Final

from l7policy import ciliumhttp, icmp, scalars, sni
from l7policy.errors import did_you_mean
from l7policy.model import FqdnPeer, HttpRule, Port
from l7policy.reader import Reader, fields
from l7policy.verdict import Direction, Protocol
from l7policy.yamltree import Kind, Node

MAX_PORTS: Final = 40

_TLS: Final = "l7gate does not open TLS; serverNames limits it by the name the client asks for"
_LISTENER: Final = "there is no Envoy here that it could name a listener of"
_REMOVED: Final = "Cilium removed it in 1.20; of L7 rules there are http and dns"
_PORTS: Final = fields(
    "ports rules serverNames", refused={"listener": _LISTENER, "originatingTLS": _TLS, "terminatingTLS": _TLS}
)
_DENIES: Final = "a deny rule drops packets and sees no requests"
_DENY_PORTS: Final = fields("ports", refused=dict.fromkeys(("rules", "serverNames", *_PORTS.refused), _DENIES))
_PORT: Final = fields("port endPort protocol", required="port")
_RULES: Final = fields("http dns", refused=dict.fromkeys(("kafka", "l7", "l7proto"), _REMOVED))
_FQDN: Final = fields("matchName matchPattern")
_ICMPS: Final = fields("fields", required="fields")
_ICMP: Final = fields("family type", required="type")
_PROTOCOLS: Final = {
    "ANY": Protocol.ANY,
    "SCTP": Protocol.SCTP,
    "TCP": Protocol.TCP,
    "UDP": Protocol.UDP,
}
_WITHOUT_PORTS: Final = frozenset({"AH", "ESP", "GRE", "IGMP", "IPIP", "IPV6", "VRRP"})


@dataclass(frozen=True, slots=True)
class Ports:
    """What one element says."""

    ports: tuple[Port, ...]
    http: tuple[HttpRule, ...] | None = None
    dns: tuple[FqdnPeer, ...] | None = None
    server_names: tuple[str, ...] | None = None


def read(reader: Reader, node: Node, direction: Direction, namespace: str = "", *, deny: bool) -> Ports:
    """One element of toPorts. `namespace` is where secrets are that name none."""
    found = reader.mapping(node, "an element of toPorts", _DENY_PORTS if deny else _PORTS)
    elements = reader.sequence(found["ports"], "ports") if "ports" in found else ()
    if not elements and ("ports" in found or "ports" not in node.fields):
        # No ports select nothing in Cilium, but no ports in `model.Rule` are all of them. Nobody means the former.
        hint = "leave toPorts out for every port"
        reader.lacks(node, _PORTS, "ports", "an element of toPorts needs ports", hint)
    if len(elements) > MAX_PORTS:
        reader.fail(found["ports"], f"{len(elements)} ports in one element; at most {MAX_PORTS} are allowed")
    pairs = [(element, port) for element in elements if (port := _port(reader, element)) is not None]
    ports = tuple(dict.fromkeys(port for _, port in pairs))
    if "rules" in node.fields and "serverNames" in node.fields:
        hint = "rules cannot see what TLS hides; write two elements of toPorts"
        reader.fail(node.keys["serverNames"], "combining serverNames and rules is not supported", hint)
    if "serverNames" in found:
        _check_ports(reader, pairs, "serverNames")
        return Ports(ports, server_names=_server_names(reader, found["serverNames"]))
    if "rules" not in found:
        return Ports(ports)
    return _with_rules(reader, found["rules"], direction, namespace, pairs, ports)


def icmps(reader: Reader, node: Node) -> tuple[Port, ...]:
    """One element of icmps."""
    found = reader.mapping(node, "an element of icmps", _ICMPS)
    elements = reader.sequence(found["fields"], "fields") if "fields" in found else ()
    if not elements and "fields" in found:
        reader.fail(found["fields"], "fields is empty", "leave icmps out for every type")
    if len(elements) > MAX_PORTS:
        reader.fail(found["fields"], f"{len(elements)} types in one element; at most {MAX_PORTS} are allowed")
    return tuple(dict.fromkeys(port for element in elements if (port := _icmp(reader, element)) is not None))


def _icmp(reader: Reader, node: Node) -> Port | None:
    found = reader.mapping(node, "an element of fields", _ICMP)
    protocol: Protocol | None = Protocol.ICMP
    if "family" in found:
        protocol = reader.checked(found["family"], "family", icmp.family)
    if "type" not in found or protocol is None:
        return None
    if found["type"].kind not in {Kind.TEXT, Kind.INTEGER}:
        reader.fail(found["type"], f"type must be a number or a name, not {found['type'].kind}")
        return None
    return reader.attempt(found["type"], "type", partial(icmp.message, protocol, found["type"].text))


def _server_names(reader: Reader, node: Node) -> tuple[str, ...]:
    elements = reader.sequence(node, "serverNames")
    if not elements:
        reader.fail(node, "serverNames is empty", 'to allow every name write "*"')
    found = (reader.checked(element, "server name", sni.check) for element in elements)
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _port(reader: Reader, node: Node) -> Port | None:
    found = reader.mapping(node, "an element of ports", _PORT)
    protocol: Protocol | None = Protocol.ANY
    if "protocol" in found:
        protocol = reader.checked(found["protocol"], "protocol", _protocol)
    if "port" not in found:
        return None
    name = found["port"].text.lower()
    if found["port"].kind is Kind.TEXT and scalars.is_port_name(name):
        if "endPort" in found:
            reader.fail(found["endPort"], "a port with a name takes no endPort", "write the numbers of the range")
        return None if protocol is None else Port(protocol, name=name)
    first = _number(reader, found["port"], "port")
    last = first
    if "endPort" in found and first is not None:
        last = _number(reader, found["endPort"], "endPort")
        if first == 0 and last:
            reader.fail(found["endPort"], "port 0 is every port and takes no endPort", "start the range at port 1")
        elif last == 0:
            last = first  # As in Cilium: an endPort of 0 is none.
        elif last is not None and last < first:
            reader.fail(found["endPort"], f"endPort {last} is lower than port {first}")
    if protocol is None or first is None or last is None:
        return None
    return Port(protocol) if first == 0 else _range(protocol, first, last)


@functools.lru_cache(maxsize=1 << 12)
def _range(protocol: Protocol, first: int, last: int) -> Port:
    """The same for all policies: few ports are in all of them."""
    return Port(protocol, first, last)


def _number(reader: Reader, node: Node, what: str) -> int | None:
    # Quotes or not: `port: 80` can mean nothing else, even though Kubernetes insists on quotes here.
    if node.kind not in {Kind.TEXT, Kind.INTEGER}:
        reader.fail(node, f"{what} must be a number, not {node.kind}")
        return None
    return reader.attempt(node, what, lambda: scalars.port_number(node.text, lowest=0))


def _protocol(text: str) -> Protocol:
    if text in _PROTOCOLS:
        return _PROTOCOLS[text]
    if text.upper() in {"ICMP", "ICMPV6"}:
        raise ValueError(f"{text} has types and no ports; write icmps instead of toPorts")
    if text in _WITHOUT_PORTS:
        raise ValueError(f"{text} is not supported: Cilium, too, knows it with enable-extended-ip-protocols only")
    raise ValueError(f"unknown protocol {text[:80]!r}; {did_you_mean(text, _PROTOCOLS)}")


def _with_rules(
    reader: Reader,
    node: Node,
    direction: Direction,
    namespace: str,
    pairs: list[tuple[Node, Port]],
    ports: tuple[Port, ...],
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
        _check_ports(reader, pairs, "dns")
        return Ports(ports, dns=_dns_rules(reader, found["dns"]))
    if "http" in found:
        _check_ports(reader, pairs, "http")
        return Ports(ports, http=ciliumhttp.rules(reader, found["http"], namespace))
    return Ports(ports)


def _check_ports(reader: Reader, pairs: list[tuple[Node, Port]], what: str) -> None:
    dns = what == "dns"
    allowed = {Protocol.TCP, Protocol.UDP, Protocol.ANY} if dns else {Protocol.TCP}
    subject = "serverNames" if what == "serverNames" else "L7 rules"
    for node, port in pairs:
        if port.protocol not in allowed:
            at = node.fields.get("protocol", node)
            message = f"{subject} can only apply to TCP (not {port.protocol.name}) except for DNS rules"
            reader.fail(at, message, "write protocol: TCP")
        if port.name:
            continue
        if port.first == 0:
            reader.fail(node.fields["port"], f"{subject} can not be used when a port is 0", "name the port")
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
