# SPDX-License-Identifier: Apache-2.0
"""One line per record, in the form that users of `cilium monitor` read already.

``xx drop (…)`` for a packet that was dropped, ``Policy verdict log: …`` for what policy said about a flow,
``<- endpoint`` and ``-> endpoint`` for packets that passed, ``<- Request`` and ``-> Response`` for layer 7. Workloads
are shown as ``7 (web)``, with id 0 for what is none of this node.

Not for programs: they read the JSON. No control character of a workload's making gets through.
"""

from typing import Final

from l7observe.columns import printable
from l7observe.record import AuditPeer, AuditRecord

_ACTIONS: Final = {"FORWARDED": "allow", "REDIRECTED": "redirect", "DROPPED": "deny", "AUDIT": "audit"}
_SAID: Final = {"FORWARDED": "Forwarded", "DROPPED": "Denied", "ERROR": "Error", "AUDIT": "Audited"}


def monitor_line(record: AuditRecord, *, verbose: bool = False) -> str:
    """The line, without its end. `verbose` adds the time, the labels of both ends, and what selected the endpoint."""
    match record.type:
        case "policy-verdict":
            line = _verdict(record)
        case "trace":
            line = _trace(record)
        case "drop":
            line = _drop(record)
        case _:
            line = _layer7(record)
    if verbose:
        line = f"{record.time} {line}{_more(record)}"
    return printable(line)


def _verdict(record: AuditRecord) -> str:
    remote = record.destination if record.direction == "egress" else record.source
    action = _ACTIONS.get(record.verdict, record.verdict.lower())
    if record.proxy:
        action += f" to {record.proxy} proxy"
    return (
        f"Policy verdict log: local EP ID {_workload(record)}, remote ID {remote.identity}, "
        f"proto {record.protocol}, {record.direction}, action {action}, match {_because(record)}, {_tuple(record)}"
    )


def _trace(record: AuditRecord) -> str:
    packet = record.packet
    point = packet.point if packet else ""
    state = "new" if packet and packet.new else "reply" if packet and packet.reply else "established"
    if point in ("from-endpoint", "cgroup-egress"):
        where = f"<- endpoint {_workload(record)}"
    elif point == "from-uplink":
        where = f"<- network to endpoint {_workload(record)}"
    else:
        where = f"-> endpoint {_workload(record)}"
    if record.verdict == "REDIRECTED":
        where += f" to {record.proxy} proxy" if record.proxy else " to proxy"
    return f"{where}, identity {_identities(record)} state {state}: {_tuple(record)}"


def _drop(record: AuditRecord) -> str:
    to = "to" if record.direction == "ingress" else "from"
    return (
        f"xx drop ({record.reason_text}) {to} endpoint {_workload(record)}, {record.reason}, "
        f"{_because(record)}, identity {_identities(record)}: {_tuple(record)}"
    )


def _layer7(record: AuditRecord) -> str:
    half = "-> Response" if record.l7_type == "response" else "<- Request"
    said = _SAID.get(record.verdict, record.verdict)
    parts = [
        (
            f"{half} {record.layer} from {record.source.where} to {record.destination.where}, "
            f"identity {_identities(record)}, verdict {said} {_what(record)}"
        )
    ]
    if record.latency_ns:
        parts.append(f"{record.latency_ns / 1e6:.3f} ms")
    if record.reason != "NONE":
        parts.append(record.reason)
        parts.append(_because(record))
    if record.detail:
        parts.append(record.detail)
    return ", ".join(parts)


def _what(record: AuditRecord) -> str:
    if record.http:
        text = f"{record.http.method} http://{record.http.host}{record.http.path}"
        return f"{text} => {record.http.status}" if record.http.status else text
    if record.dns:
        text = f"DNS Query {record.dns.query}. {record.dns.qtype}"
        if record.dns.addresses:
            text += " = " + ",".join(record.dns.addresses)
        return f"{text} => {record.dns.rcode}" if record.dns.rcode else text
    if record.tls:
        return f"SNI {record.tls.sni or '-'}"
    return _tuple(record)


def _because(record: AuditRecord) -> str:
    return f"rule {record.rule}" if record.rule else "no rule"


def _workload(record: AuditRecord) -> str:
    return f"{record.endpoint.id} ({record.endpoint.name})" if record.endpoint.name else str(record.endpoint.id)


def _identities(record: AuditRecord) -> str:
    return f"{record.source.identity}->{record.destination.identity}"


def _tuple(record: AuditRecord) -> str:
    flags = f" {record.packet.flags}" if record.packet and record.packet.flags else ""
    return f"{_address(record.source)} -> {_address(record.destination)} {record.protocol.lower()}{flags}"


def _address(peer: AuditPeer) -> str:
    host = f"[{peer.address}]" if ":" in peer.address and peer.port else peer.address
    return f"{host}:{peer.port}" if peer.port else host


def _more(record: AuditRecord) -> str:
    text = f" labels ([{' '.join(record.source.labels)}] -> [{' '.join(record.destination.labels)}])"
    if record.policies:
        text += f" policies {','.join(record.policies)}"
    return f"{text} revision {record.revision}"
