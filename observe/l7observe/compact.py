# SPDX-License-Identifier: Apache-2.0
"""One line per record, for people, in the form that users of Hubble read already.

``TIME: SOURCE (IDENTITY) -> DESTINATION (IDENTITY) TYPE VERDICT (SUMMARY)``

Not for programs: they read the JSON. No control character of a workload's making gets through.
"""

from typing import Final

from l7observe.columns import printable
from l7observe.record import AuditPeer, AuditRecord
from l7policy import ids

RESERVED: Final = {
    ids.HOST: "host",
    ids.WORLD: "world",
    ids.UNMANAGED: "unmanaged",
    ids.HEALTH: "health",
    ids.INIT: "init",
    ids.REMOTE_NODE: "remote-node",
    ids.KUBE_APISERVER: "kube-apiserver",
    ids.INGRESS: "ingress",
}

_TYPES: Final = {"http": "http-request", "dns": "dns-request proxy", "tls": "tls-handshake", "packet": "drop"}
_BY_POLICY: Final = frozenset({"POLICY_DENIED", "POLICY_DENY"})


def compact(record: AuditRecord, *, node: bool = False) -> str:
    """The line, without its end. `node` adds the host's name after the time."""
    when = f"{record.time} [{record.node}]" if node else record.time
    line = (
        f"{when}: {_end(record.source)} -> {_end(record.destination)} "
        f"{_type(record)} {record.direction.upper()} {_verdict(record)} ({_summary(record)})"
    )
    return printable(line)


def identity(number: int) -> str:
    """A reserved identity by its name, any other as ``ID:number``."""
    return RESERVED.get(ids.IdentityId(number)) or f"ID:{number}"


def _end(peer: AuditPeer) -> str:
    return f"{peer.where} ({identity(peer.identity)})" if peer.identity else peer.where


def _type(record: AuditRecord) -> str:
    if record.layer == "packet" and record.reason in _BY_POLICY:
        return "policy-verdict:L3-L4"
    return _TYPES.get(record.layer, record.layer)


def _verdict(record: AuditRecord) -> str:
    if record.verdict == "DROPPED" and record.reason in _BY_POLICY:
        return "DENIED"
    return record.verdict


def _summary(record: AuditRecord) -> str:
    if record.http:
        request = " ".join(part for part in (record.http.method, record.http.host + record.http.path) if part)
        what = f"HTTP {request}" + (f" => {record.http.status}" if record.http.status else "")
    elif record.dns:
        what = f"DNS Query {record.dns.query}. {record.dns.qtype}" + (
            f" => {record.dns.rcode}" if record.dns.rcode else ""
        )
    elif record.tls:
        what = f"TLS {record.tls.sni or 'without a server name'}"
    else:
        what = record.protocol
    parts = [what, f"{record.reason}: {record.reason_text}"]
    if record.detail:
        parts.append(record.detail)
    if record.rule:
        parts.append(f"rule {record.rule}")
    elif record.policies:
        parts.append("policies " + ",".join(record.policies))
    return "; ".join(parts)
