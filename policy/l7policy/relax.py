# SPDX-License-Identifier: Apache-2.0
"""Ways to make one rule cover or allow a little more: the candidates that `l7policy.nearest` tries.

Each is a changed copy of the rule with a cost and a sentence. May not promise that it helps: the engine says so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from l7policy import labels, sni
from l7policy.cluster import CLUSTER, SERVICE_ACCOUNT
from l7policy.http import HttpRules, pattern
from l7policy.model import (
    Action,
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    HttpRule,
    LabelPeer,
    Labels,
    Operator,
    Origin,
    Peer,
    Port,
    Requirement,
    Rule,
)
from l7policy.question import HttpRequest, Question
from l7policy.selectors import EVERY_IPV4, WORLD_LABEL, is_workload, matches_any
from l7policy.verdict import Direction, Protocol

_PORT: Final = 2
_PEER: Final = 3
_FIELD: Final = 1
_OTHER_VALUE: Final = 2
_ELEMENT: Final = 3
_NAME: Final = 1

_GIVEN: Final = frozenset({labels.NAMESPACE, CLUSTER, SERVICE_ACCOUNT})
_NARROWEST: Final = ("kube-apiserver", "health", "ingress", "init", "unmanaged", "remote-node", "host")
"""Entities by reserved labels, so that of two that a node may carry the narrower is named."""
_KUBERNETES: Final = "networkpolicy:"


@dataclass(frozen=True, slots=True)
class Change:
    """One rule, otherwise."""

    cost: int
    text: str
    before: Rule
    after: Rule
    learnt: Labels = frozenset()
    """Labels that the other end's identity gains because a rule now names its address or name."""


def place(origin: Origin) -> str:
    """A rule and where it stands: ``shop/web egress[0] (web.yaml:7)``."""
    return f"{origin} ({origin.file}:{origin.line})" if origin.file else str(origin)


def ports(question: Question) -> tuple[Port, ...]:
    """The port that is asked about, as a rule would name it."""
    if len(question.protocols) > 1:
        return (Port(Protocol.ANY, question.port, question.port),)
    return (Port(question.protocols[0], question.port, question.port),)


def ports_text(question: Question) -> str:
    """The same in words."""
    if question.protocols[0] in (Protocol.ICMP, Protocol.ICMPV6):
        return f"icmps {question.where}"
    return f"port {question.where}"


def cover(rule: Rule, remote: Labels, question: Question) -> Iterator[Change]:
    """Ways to make an allow rule cover a flow that it does not."""
    if rule.action != Action.ALLOW or not rule.origin.file:
        return
    if rule.ports and matches_any(rule.peers, remote):
        if not _go_together(rule, question):
            return
        after = msgspec.structs.replace(rule, ports=(*rule.ports, *ports(question)))
        yield Change(_PORT, f"add {ports_text(question)} to {place(rule.origin)}", rule, after)
    elif (found := _more_peers(rule, remote, question)) is not None:
        yield found


def _go_together(rule: Rule, question: Question) -> bool:
    """Whether the rule could name what is asked about, too: an element has ports or message types, and limits of
    requests and server names are TCP's."""
    messages = {Protocol.ICMP, Protocol.ICMPV6}
    if rule.ports[0].protocol in messages or not messages.isdisjoint(question.protocols):
        return rule.ports[0].protocol in messages and messages.issuperset(question.protocols)
    return (rule.http is None and rule.server_names is None) or question.protocols == (Protocol.TCP,)


def _more_peers(rule: Rule, remote: Labels, question: Question) -> Change | None:
    found = element(rule.direction, remote, question, like=rule)
    if found is None or rule.peers is None:
        return None
    peer, words, learnt = found
    # Kinds of peers do not mix in one rule.
    if any(type(other) is not type(peer) for other in rule.peers):
        return None
    after = msgspec.structs.replace(rule, peers=(*rule.peers, peer))
    return Change(_PEER, f"add {words} to {place(rule.origin)}", rule, after, learnt)


def element(
    direction: Direction, remote: Labels, question: Question, like: Rule | None = None
) -> tuple[Peer, str, Labels] | None:
    """A peer that selects the other end: the peer, in words, and what naming it adds to that end's labels."""
    egress = direction == Direction.EGRESS
    verb = "to" if egress else "from"
    side = question.destination if egress else question.source
    if is_workload(remote):
        requirements = _identifying(remote, like)
        return LabelPeer(requirements), f"{verb}Endpoints {_selector(requirements)}", frozenset()
    if side.names and not side.prefix and egress:
        peer = FqdnPeer(match_name=side.names[0])
        return peer, f"toFQDNs matchName: {side.names[0].rstrip('.')}", frozenset({peer.label})
    if side.prefix and not side.labels and not side.text.startswith("reserved:"):
        return CidrPeer(side.prefix), f"{verb}CIDR {side.prefix}", frozenset({f"cidr:{side.prefix}"})
    if WORLD_LABEL in remote and side.prefix == EVERY_IPV4:
        entity = "world"
    else:
        named = (name for name in _NARROWEST if f"{labels.RESERVED}:{name}" in remote)
        entity = next(named, side.text.partition(":")[2])
    return EntityPeer(entity), f"{verb}Entities {entity}", frozenset()


def _identifying(remote: Labels, like: Rule | None) -> tuple[Requirement, ...]:
    """What tells the other end from others, best in the same keys that the rule's peers use already."""
    values = dict(map(labels.split, sorted(remote)))
    used = {
        requirement.key.removeprefix("any:")
        for peer in (like.peers or () if like is not None else ())
        if isinstance(peer, LabelPeer)
        for requirement in peer.requirements
    }
    own = {key: value for key, value in values.items() if key not in _GIVEN and not _of_namespace(key)}
    same = {key: value for key, value in own.items() if key in used or key.partition(":")[2] in used}
    chosen = same or own
    if labels.NAMESPACE in values:
        chosen = {**chosen, labels.NAMESPACE: values[labels.NAMESPACE]}
    return tuple(Requirement(key, Operator.IN, (value,)) for key, value in sorted(chosen.items()))


def _of_namespace(key: str) -> bool:
    return key.partition(":")[2].startswith(labels.NAMESPACE_LABELS_KEY)


def _selector(requirements: tuple[Requirement, ...]) -> str:
    words = [f"{requirement.key.removeprefix('k8s:')}={requirement.values[0]}" for requirement in requirements]
    return "{" + ", ".join(words) + "}"


def http(rule: Rule, request: HttpRequest) -> Iterator[Change]:
    """Ways to make one of the rule's HTTP rules match the request, or one HTTP rule more."""
    given = rule.http or ()
    where = f"rules.http of {place(rule.origin)}"
    for index, old in enumerate(given):
        new, cost, words = _match(old, request)
        if words:
            after = msgspec.structs.replace(rule, http=(*given[:index], new, *given[index + 1 :]))
            yield Change(cost, f"in {where}: {', '.join(words)}", rule, after)
    added = HttpRule(method=_escaped(request.method), path=_escaped(request.path))
    text = f'add {{method: {request.method}, path: "{added.path}"}} to {where}'
    yield Change(_ELEMENT, text, rule, msgspec.structs.replace(rule, http=(*given, added)))


def _match(old: HttpRule, request: HttpRequest) -> tuple[HttpRule, int, list[str]]:
    """The rule with every field widened that keeps it from matching; what that costs; and in words."""
    new, cost, words = old, 0, []
    for name, sent in (("method", request.method), ("path", request.path), ("host", request.host)):
        expression = getattr(old, name)
        if not expression or pattern(expression).matches(sent.encode()):
            continue
        other = f"{expression}|{_escaped(sent)}"
        wider = (_longer_path(expression, sent) if name == "path" else "") or other
        new = msgspec.structs.replace(new, **{name: wider})
        cost += _FIELD if name == "method" or wider != other else _OTHER_VALUE
        words.append(f'change {name} "{expression}" to "{wider}"')
    kept = []
    for header in old.headers:
        if HttpRules((HttpRule(headers=(header,)),)).match(*request.fields):
            kept.append(header)
            continue
        cost += _FIELD
        if header.secret is not None:
            secret = f"{header.secret.namespace}/{header.secret.name}"
            words.append(f"do not ask for the header {header.name} (the secret {secret} is not known here)")
            continue
        wanted = header.name + ("" if header.value is None else f": {header.value}")
        words.append(f'send the header "{wanted}", or do not ask for it')
    return msgspec.structs.replace(new, headers=tuple(kept)), cost, words


def _longer_path(expression: str, sent: str) -> str:
    """The narrowest of a few usual ways to let what comes after a path through; empty if none does."""
    base = f"({expression})" if "|" in expression else expression
    for ending in (r"(\?.*)?", "/?", "/.*", "(/.*)?"):
        try:
            if pattern(base + ending).matches(sent.encode()):
                return base + ending
        except ValueError:
            break
    return ""


def _escaped(text: str) -> str:
    return re.sub(r"([\\.^$*+?()\[\]{}|])", r"\\\1", text)


def dns(rule: Rule, name: str) -> Iterator[Change]:
    """One name more."""
    peer = FqdnPeer(match_name=name.lower().rstrip(".") + ".")
    after = msgspec.structs.replace(rule, dns=(*(rule.dns or ()), peer))
    text = f"add matchName: {name.rstrip('.')} to rules.dns of {place(rule.origin)}"
    yield Change(_NAME, text, rule, after)


def server_names(rule: Rule, name: str) -> Iterator[Change]:
    """One TLS server name more."""
    try:
        checked = sni.check(name)
    except ValueError:
        return  # No pattern can stand for it.
    if "*" not in checked:
        after = msgspec.structs.replace(rule, server_names=(*(rule.server_names or ()), checked))
        yield Change(_NAME, f"add {checked} to serverNames of {place(rule.origin)}", rule, after)
