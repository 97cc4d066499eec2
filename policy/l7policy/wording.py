# SPDX-License-Identifier: Apache-2.0
"""Rules in words: one line for people, the same in every list, diff and explanation.

This module may not decide anything, and nothing may be parsed back from what it writes.
"""

from collections.abc import Iterable

from l7policy.judgement import LAST_PORT
from l7policy.model import (
    PRIORITY_STEP,
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    HeaderMatch,
    HttpRule,
    LabelPeer,
    Mismatch,
    NodePeer,
    Operator,
    Peer,
    Port,
    Requirement,
    Rule,
    Tier,
    WorkloadPeer,
)
from l7policy.verdict import Direction, Protocol


def describe(rule: Rule) -> str:
    """A rule in one line for people: ``allow TCP 80 to k8s:app=web with HTTP GET /public``."""
    words = [rule.action.value, _list(map(_port, rule.ports)) or "everything"]
    words.append("to" if rule.direction == Direction.EGRESS else "from")
    words.append("anyone" if rule.peers is None else _list(map(describe_peer, rule.peers)) or "nobody")
    if rule.http is not None and not rule.deny:
        words.append("with HTTP " + (_list(map(_http, rule.http)) or "nothing"))
    if rule.dns is not None and not rule.deny:
        words.append("for names " + (_list(peer.label.removeprefix("fqdn:") for peer in rule.dns) or "none"))
    if rule.server_names is not None and not rule.deny:
        words.append("with TLS for " + (_list(rule.server_names) or "no name"))
    if rule.tier in (Tier.ADMIN, Tier.BASELINE):
        words.append(f"(tier {rule.tier.name.lower()}, priority {rule.priority // PRIORITY_STEP})")
    return " ".join(words)


def _list(texts: Iterable[str]) -> str:
    return ", ".join(texts)


def _port(port: Port) -> str:
    protocol = Protocol(port.protocol).name
    if port.name:
        return f"{protocol} port named {port.name}"
    if (port.first, port.last) == (0, LAST_PORT):
        return f"{protocol} any port"
    word = f"{protocol} type" if port.protocol in (Protocol.ICMP, Protocol.ICMPV6) else protocol
    return f"{word} {port.first}" if port.first == port.last else f"{word} {port.first}-{port.last}"


def describe_peer(peer: Peer) -> str:
    """A peer in words: ``k8s:app=web``, ``192.0.2.0/24 except 192.0.2.1/32``."""
    match peer:
        case LabelPeer():
            return " and ".join(map(_requirement, peer.requirements)) or "any workload"
        case CidrPeer():
            return peer.cidr + (f" except {' '.join(peer.excepts)}" if peer.excepts else "")
        case EntityPeer():
            return peer.entity
        case FqdnPeer():
            return peer.label
        case NodePeer():
            return "nodes with " + " and ".join(map(_requirement, peer.requirements)) if peer.requirements else "nodes"
        case WorkloadPeer():
            return "the workload " + " ".join(peer.labels)


def _requirement(requirement: Requirement) -> str:
    key, values = requirement.key.removeprefix("any:"), requirement.values
    match requirement.operator:
        case Operator.IN if len(values) == 1:
            return f"{key}={values[0]}" if values[0] else key
        case Operator.IN:
            return f"{key} in ({' '.join(values)})"
        case Operator.NOT_IN:
            return f"{key} not in ({' '.join(values)})"
        case Operator.EXISTS:
            return f"{key} exists"
        case Operator.DOES_NOT_EXIST:
            return f"no {key}"


def _http(rule: HttpRule) -> str:
    words = [rule.method or "any method", rule.path or "any path"]
    if rule.host:
        words.append(f"host {rule.host}")
    words.extend(map(_header, rule.headers))
    return " ".join(words)


def _header(match: HeaderMatch) -> str:
    text = match.name
    if match.secret is not None:
        text += f": secret {match.secret.namespace}/{match.secret.name}"
    elif match.value is not None:
        text += f": {match.value}"
    return text if match.mismatch == Mismatch.FAIL else f"{text} or {match.mismatch.value}"
