# SPDX-License-Identifier: Apache-2.0
"""Question: may this source reach that destination on this port, with this request? Asked by people, offline.

Reads what a person writes for each part of it: ``k8s:app=a``, ``shop/web-1``, ``192.0.2.1``, ``fqdn:example.com``,
``reserved:host``; ``80/TCP``, ``53/ANY``, ``icmp:8``; ``GET /path``; ``X-Key: value``.

May not judge. Failure verdict: `QuestionError`, with a text that stands on its own.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from l7policy import icmp, labels, names, resolve, scalars
from l7policy.cluster import CLUSTER, Cluster, Service, namespace_labels
from l7policy.errors import did_you_mean
from l7policy.labels import LabelError
from l7policy.model import FqdnPeer, Labels, NamedPort
from l7policy.selectors import EVERY_IPV4, EVERY_IPV6, HOST_LABEL, WORLD_LABEL
from l7policy.verdict import Protocol

_RESERVED: Final = frozenset(
    {"health", "host", "ingress", "init", "kube-apiserver", "remote-node", "unmanaged", "world"}
)
_WORLD_FAMILY: Final = {"world-ipv4": EVERY_IPV4, "world-ipv6": EVERY_IPV6}
_TRANSPORTS: Final = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP, "ANY": Protocol.ANY}
_EITHER: Final = (Protocol.TCP, Protocol.UDP)
"""What protocol ANY asks about. Both must pass: a question must not sound better than the worse of its answers."""

_ICMP: Final = {
    protocol: {name.lower(): number for name, number in known.items()} for protocol, known in icmp.TYPES.items()
}
"""Cilium's names without case and hyphens: ``echo-request``."""
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")


class QuestionError(ValueError):
    """Not a question, and why."""


@dataclass(frozen=True, slots=True)
class Side:
    """One end. A workload or a reserved identity is known by its labels, all others by their address or name."""

    text: str
    """As it was written."""
    labels: Labels = frozenset()
    prefix: str = ""
    """Addresses outside the cluster. `labels` are then what is known of them besides: that the API server is there."""
    names: tuple[str, ...] = ()
    """Names that the address was learnt under."""
    ports: tuple[NamedPort, ...] = ()
    audit: bool | None = None
    """Whether this end is audited; None: as everybody."""

    def identity(self, cidrs: Collection[str], selectors: Sequence[FqdnPeer]) -> Labels:
        """All labels, under policies that name these CIDRs and selectors."""
        if self.labels and not self.prefix:
            return self.labels
        # Some address of which no more is known is IPv4, and in no prefix but the one around everything.
        inside = resolve.cidr_labels(self.prefix or EVERY_IPV4, cidrs)
        learnt = {peer.label for name in self.names for peer in names.matching(tuple(selectors), name)}
        return inside | learnt | self.labels


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, as it would be sent."""

    method: str
    path: str
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    malformed: str = ""
    """Why the proxy would refuse it before any rule is asked; empty if it would not."""

    @property
    def fields(self) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]:
        """Method, path, host and headers, as `http.HttpRules.match` takes them."""
        return (
            self.method.encode(),
            self.path.encode(),
            self.host.encode(),
            [(name.encode(), value.encode()) for name, value in self.headers],
        )


@dataclass(frozen=True, slots=True)
class Question:
    """The whole of it. `port` is the message type for ICMP."""

    source: Side
    destination: Side
    protocols: tuple[Protocol, ...]
    """All of them must pass."""
    port: int
    http: HttpRequest | None = None
    dns: str | None = None
    """Name that is asked for."""
    sni: str | None = None
    """Server name of a TLS ClientHello; empty: it has none. None: nothing is known of TLS."""

    @property
    def where(self) -> str:
        """The port, as people write it."""
        return port_text(Protocol.ANY if len(self.protocols) > 1 else self.protocols[0], self.port)


def port_text(protocol: Protocol, port: int) -> str:
    """``80/TCP``, ``icmp:8``."""
    if protocol in (Protocol.ICMP, Protocol.ICMPV6):
        return f"{protocol.name.lower()}:{port}"
    return f"{port}/{protocol.name}"


def side(text: str, cluster: Cluster) -> Side:
    """One end as a person writes it. Raises QuestionError."""
    text = text.strip()
    if text.startswith("fqdn:"):
        name = text.removeprefix("fqdn:")
        try:
            return Side(text, names=(scalars.match_name(name).match_name,))
        except ValueError as error:
            raise QuestionError(str(error)) from error
    if text.startswith(f"{labels.RESERVED}:"):
        return _reserved(text, cluster)
    if (prefix := _prefix(text)) is not None:
        return _outside(text, prefix, cluster)
    if (found := cluster.endpoints.get(text) or cluster.endpoints.get(f"default/{text}")) is not None:
        return Side(text, labels=found.labels, ports=found.ports, audit=found.audit)
    if (service := cluster.services.get(text)) is not None:
        raise _is_service(f"{text} is", service)
    if "=" in text or "," in text or ":" in text:
        return _labelled(text, cluster)
    if not cluster.endpoints:
        hint = "namespace/name needs --cluster; labels look like app=web"
    else:
        hint = did_you_mean(text, [*cluster.endpoints]) or "no such workload in the cluster; labels look like app=web"
    raise QuestionError(f"{text[:80]!r} is neither labels, an address, fqdn:NAME, reserved:NAME nor a workload; {hint}")


def _reserved(text: str, cluster: Cluster) -> Side:
    name = text.partition(":")[2]
    if name in _WORLD_FAMILY:
        return Side(text, prefix=_WORLD_FAMILY[name])
    if name == "world":
        return Side(text, prefix=EVERY_IPV4)
    if name not in _RESERVED:
        raise QuestionError(
            f"{text[:80]!r} is no identity; {did_you_mean(name, _RESERVED | _WORLD_FAMILY.keys())}".rstrip("; ")
        )
    found = frozenset({text} | ({WORLD_LABEL} if name == "kube-apiserver" else set()))
    if text == HOST_LABEL and len(own := [one.labels for one in cluster.endpoints.values() if text in one.labels]) == 1:
        found = own[0]  # the one node that is known, with its labels
    return Side(text, labels=found)


def _prefix(text: str) -> str | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    return str(network)


def _outside(text: str, prefix: str, cluster: Cluster) -> Side:
    network = ipaddress.ip_network(prefix)
    if network.num_addresses > 1:
        return Side(text, prefix=prefix)
    address = str(network.network_address)
    if (found := cluster.at(address)) is not None:
        if WORLD_LABEL in found.labels:
            return Side(text, labels=found.labels, prefix=prefix)
        return Side(text, labels=found.labels, ports=found.ports, audit=found.audit)
    if (service := cluster.service_at(address)) is not None:
        raise _is_service(f"{address} is", service)
    return Side(text, prefix=prefix)


def _is_service(what: str, service: Service) -> QuestionError:
    behind = ", ".join(service.backends) or "nobody in the cluster"
    return QuestionError(f"{what} the service {service.name}; policy is asked about the workload behind it: {behind}")


def _known(cluster: Cluster) -> Iterable[Collection[str]]:
    """Labels of each workload, as they are written without a source."""
    return ({label.partition(":")[2] for label in one.labels} for one in cluster.endpoints.values())


def _labelled(text: str, cluster: Cluster) -> Side:
    for part in map(str.strip, text.split(",")):
        namespace, slash, rest = part.partition("=")[0].partition("/")
        if slash and rest and labels.is_namespace(namespace) and not any(part in one for one in _known(cluster)):
            # Prefixes of keys are domains; this looks like what is written for a pod, as namespace/name.
            value = part.partition("=")[2]
            raise QuestionError(
                f"{part[:80]!r} is a label with the key {namespace}/{rest}. If {namespace} is the namespace write"
                f" {rest}={value},{labels.NAMESPACE_KEY}={namespace}; if you mean the label write k8s:{part[:80]}"
            )
    try:
        # No workload has a label of source any, but that is how selectors are copied.
        written = (part.strip().removeprefix(f"{labels.ANY}:") for part in text.split(","))
        found = labels.workload_labels(part for part in written if part)
    except LabelError as error:
        raise QuestionError(str(error)) from error
    if not found:
        raise QuestionError("no labels; they look like app=web,io.kubernetes.pod.namespace=shop")
    keys = {label.partition("=")[0] for label in found}
    namespace = next(value for key, value in map(labels.split, found) if key == labels.NAMESPACE)
    more = set(cluster.namespaces.get(namespace) or namespace_labels(namespace, {})) | {f"{CLUSTER}=default"}
    return Side(text, labels=found | {label for label in more if label.partition("=")[0] not in keys})


def port(text: str, destination: Side) -> tuple[tuple[Protocol, ...], int]:
    """``80/TCP``, ``80`` (TCP), ``53/ANY``, ``web/TCP``, ``icmp:8``, ``icmpv6:echo-request``. Raises QuestionError."""
    kind, colon, what = text.strip().partition(":")
    if colon:
        return _icmp(kind, what)
    number, slash, protocol_text = text.strip().partition("/")
    if slash and protocol_text.upper() not in _TRANSPORTS:
        raise QuestionError(f"unknown protocol {protocol_text[:40]!r}; {did_you_mean(protocol_text, _TRANSPORTS)}")
    protocol = _TRANSPORTS[protocol_text.upper()] if slash else Protocol.TCP
    if scalars.is_port_name(number):
        named = next(
            (
                one
                for one in destination.ports
                if one.name == number and (not slash or protocol in (Protocol.ANY, one.protocol))
            ),
            None,
        )
        if named is None:
            known = ", ".join(f"{one.name}={one.port}/{one.protocol.name}" for one in destination.ports)
            raise QuestionError(
                f"{destination.text} has no port named {number!r}" + (f"; it has {known}" if known else "")
            )
        return (named.protocol,), named.port
    try:
        return (_EITHER if protocol == Protocol.ANY else (protocol,)), scalars.port_number(number)
    except ValueError as error:
        raise QuestionError(f"{error}; ports look like 80/TCP, 53/ANY, icmp:8 and icmpv6:echo-request") from error


def _icmp(kind: str, what: str) -> tuple[tuple[Protocol, ...], int]:
    protocol = next((one for one in _ICMP if one.name.lower() == kind.lower()), None)
    if protocol is None:
        raise QuestionError(f"{kind[:40]!r} is not icmp or icmpv6")
    if what.isdecimal() and what.isascii():
        if int(what) > 255:
            raise QuestionError(f"{what[:40]} is no message type: a number from 0 to 255")
        return (protocol,), int(what)
    number = _ICMP[protocol].get(what.replace("-", "").replace("_", "").lower())
    if number is None:
        raise QuestionError(
            f"unknown message type {what[:40]!r} of {kind.lower()}; {did_you_mean(what, _ICMP[protocol])}"
        )
    return (protocol,), number


def request(line: str, host: str = "", headers: Sequence[str] = ()) -> HttpRequest:
    """A request from ``GET /path`` and ``Name: value`` texts. Raises QuestionError."""
    method, space, path = line.strip().partition(" ")
    path = path.strip()
    if not space or not _TOKEN.fullmatch(method) or not path.startswith(("/", "*")) or " " in path:
        raise QuestionError(f"{line[:80]!r} is not a request; write a method and a path: 'GET /path?query'")
    return HttpRequest(method, path, host.strip(), tuple(map(_header, headers)))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name.strip()):
        raise QuestionError(f"{text[:80]!r} is not a header; write 'Name: value'")
    return name.strip(), value.strip()


def ask(
    source: Side,
    destination: Side,
    port_spec: str,
    *,
    http: HttpRequest | None = None,
    dns: str | None = None,
    sni: str | None = None,
) -> Question:
    """Puts the parts together. Raises QuestionError where they do not fit."""
    if sum(part is not None for part in (http, dns, sni)) > 1:
        raise QuestionError("a flow carries HTTP, DNS or TLS: ask about one of them")
    protocols, number = port(port_spec, destination)
    if http is not None or sni is not None:
        if Protocol.TCP not in protocols:
            raise QuestionError(f"HTTP and TLS go over TCP, not over {protocols[0].name}")
        protocols = (Protocol.TCP,)
    if dns is not None:
        if not set(protocols) & set(_EITHER):
            raise QuestionError(f"DNS goes over UDP and TCP, not over {protocols[0].name}")
        if not dns.strip():
            raise QuestionError("no name to ask for; the root is '.'")
    return Question(source, destination, protocols, number, http, dns, sni)
