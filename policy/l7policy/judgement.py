# SPDX-License-Identifier: Apache-2.0
"""The readable truth: what one policy says about one flow, in the order that decides.

The kernel (`l7policy.entries` and bpf/programs) and the proxies (`l7policy.enforcement`) must come to the same verdict;
a property test compares the kernel's lookup with `judge` for random policies and flows.

    1. A direction that no policy enforces: allowed.
    2. The rules that cover the flow are taken by tier (admin, normal, baseline) and, in it, by priority. Those of the
       strongest tier and priority decide, by 3 to 6, and no other is looked at.
    3. One of them is a deny rule: denied, whatever else matches.
    4. One has HTTP, TLS or DNS limits: redirected to the proxy. The lists of all such rules are joined, and passing one
       of them is enough. HTTP goes before TLS, and that before DNS.
    5. One allows without limits: allowed.
    6. All pass: the rest of the tier is skipped, and the next one is asked by 2.
    7. Nothing covers it: denied.

A plain allow does not hide the limits of an L7 rule on a port inside its range (CVE-2024-52529). Only one for *exactly*
the same protocol and ports voids them: the flow still goes through the proxy, where every request then passes. It never
voids server names.

This module may not look at addresses or identity numbers. Its failure verdict is 7.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from l7policy.model import LAST_PRIORITY, Action, EndpointPolicy, FqdnPeer, HttpRule, Labels, Origin, Rule, Tier
from l7policy.selectors import matches_any
from l7policy.verdict import Direction, Protocol, ProxyKind, Reason

LAST_PORT: Final = 65535

PortKey = tuple[int, int, int]
"""Protocol, first and last port, with no protocol left that stands for several. Protocol ANY means all there are."""

ANYTHING: Final[PortKey] = (Protocol.ANY, 0, LAST_PORT)
"""Every port of every protocol, ICMP and those without ports included."""

_WITH_PORTS: Final = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_PROXIED: Final = {
    ProxyKind.NONE: _WITH_PORTS,
    ProxyKind.HTTP: (Protocol.TCP,),
    ProxyKind.TLS: (Protocol.TCP,),
    ProxyKind.DNS: (Protocol.TCP, Protocol.UDP),
}
"""Protocols each proxy speaks. What an L7 rule names beyond these it does not allow."""


class PolicyVerdict(IntEnum):
    """What to do with a flow, numbered as in the kernel's policy entries."""

    ALLOW = 0
    DENY = 1
    REDIRECT = 2


def redirect_precedence(listener_priority: int) -> int:
    """Low byte of a redirect's precedence for Cilium's listener priority (0: none given). Less is stronger."""
    return 255 - listener_priority if listener_priority else 2


DENY_PRECEDENCE: Final = 255
HTTP_PRECEDENCE: Final = redirect_precedence(101)
TLS_PRECEDENCE: Final = redirect_precedence(116)
DNS_PRECEDENCE: Final = redirect_precedence(121)
ALLOW_PRECEDENCE: Final = 1
PASS_PRECEDENCE: Final = 0
"""The low byte, which decides among rules of one tier and priority."""


def level(rule: Rule) -> int:
    """Tier and priority as one number of 24 bits. Less is stronger."""
    return rule.tier * (LAST_PRIORITY + 1) + rule.priority


def tier_of(at_level: int) -> Tier:
    """The tier of a `level`."""
    return Tier(at_level // (LAST_PRIORITY + 1))


def precedence(at_level: int, low_byte: int) -> int:
    """What the kernel compares: more is stronger, so the level is stored inverted."""
    return (0xFFFFFF - at_level) << 8 | low_byte


@dataclass(frozen=True, slots=True)
class Effect:
    """What a rule does to a flow it covers. At one level the higher low byte wins."""

    verdict: PolicyVerdict
    proxy: ProxyKind
    low_byte: int


_DENY: Final = Effect(PolicyVerdict.DENY, ProxyKind.NONE, DENY_PRECEDENCE)
_HTTP: Final = Effect(PolicyVerdict.REDIRECT, ProxyKind.HTTP, HTTP_PRECEDENCE)
_TLS: Final = Effect(PolicyVerdict.REDIRECT, ProxyKind.TLS, TLS_PRECEDENCE)
_DNS: Final = Effect(PolicyVerdict.REDIRECT, ProxyKind.DNS, DNS_PRECEDENCE)
_ALLOW: Final = Effect(PolicyVerdict.ALLOW, ProxyKind.NONE, ALLOW_PRECEDENCE)
PASS: Final = Effect(PolicyVerdict.DENY, ProxyKind.NONE, PASS_PRECEDENCE)
"""Decides nothing itself: where no later tier decides either, default deny is what is left."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a flow, and what the proxy needs to judge each request or query of it."""

    verdict: PolicyVerdict
    proxy: ProxyKind = ProxyKind.NONE
    reason: Reason = Reason.NONE
    precedence: int = 0
    """Of the rules that decided, as in the kernel's entries. 0 where none did."""
    origins: tuple[Origin, ...] = ()
    """Rules that decided: those that deny, those that limit, or those that allow. Empty where none did."""
    http: tuple[HttpRule, ...] | None = None
    """A request must match one. None: no HTTP limit."""
    dns: tuple[FqdnPeer, ...] | None = None
    """A queried name must match one. None: no DNS limit."""
    server_names: tuple[str, ...] | None = None
    """A TLS server name must match one. None: no TLS limit."""
    audit: bool = False
    """What this denies, or its limits would, passes and is recorded as AUDIT."""
    log: str = ""
    """Of the first rule that decided and has one."""


NOT_ENFORCED: Final = Judgement(PolicyVerdict.ALLOW)


def effect(rule: Rule) -> Effect:
    """What the rule does, wherever it applies. A deny rule's HTTP and DNS limits mean nothing."""
    match rule.action:
        case Action.DENY:
            return _DENY
        case Action.PASS:
            return PASS
        case Action.ALLOW:
            if rule.http is not None:
                return _HTTP
            if rule.server_names is not None:
                return _TLS
            return _DNS if rule.dns is not None else _ALLOW


def port_keys(rule: Rule) -> tuple[PortKey, ...]:
    """The ports that `rule` covers, each protocol on its own. ICMP types stand where ports do.

    A port's name that `l7policy.resolve` put no number for covers nothing.
    """
    proxy = effect(rule).proxy
    if not rule.ports:
        if proxy == ProxyKind.NONE:
            return (ANYTHING,)
        return tuple((protocol, 0, LAST_PORT) for protocol in _PROXIED[proxy])
    keys: dict[PortKey, None] = {}
    for port in rule.ports:
        if port.name:
            continue
        for protocol in _PROXIED[proxy] if port.protocol == Protocol.ANY else (port.protocol,):
            if proxy == ProxyKind.NONE or protocol in _PROXIED[proxy]:
                keys[int(protocol), port.first, port.last] = None
    return tuple(keys)


def covers(rule: Rule, protocol: int, port: int) -> bool:
    """Whether the rule says anything about flows of this protocol to this port."""
    return any(_covers(key, protocol, port) for key in port_keys(rule))


def _covers(key: PortKey, protocol: int, port: int) -> bool:
    return key == ANYTHING or (key[0] == protocol and key[1] <= port <= key[2])


_Covering = dict[Effect, list[tuple[Rule, list[PortKey]]]]
"""Rules of one level that cover a flow, with those of their ports that do."""


def judge(policy: EndpointPolicy, direction: Direction, remote: Labels, protocol: int, port: int) -> Judgement:
    """What `policy` says about a flow between its endpoint and a peer with the labels `remote`.

    `port` is the destination port, the message type for ICMP, and 0 for protocols that have neither.
    """
    # 1. Nobody enforces this direction.
    if not policy.enforces(direction):
        return NOT_ENFORCED

    # 2. By tier and priority.
    levels: dict[int, _Covering] = {}
    for rule in policy.rules:
        if rule.direction == direction:
            keys = [key for key in port_keys(rule) if _covers(key, protocol, port)]
            if keys and matches_any(rule.peers, remote):
                levels.setdefault(level(rule), {}).setdefault(effect(rule), []).append((rule, keys))
    passed: Tier | None = None
    for at_level in sorted(levels):
        if tier_of(at_level) == passed:
            continue
        decided = _decide(levels[at_level], at_level, audit=policy.audit)
        if decided is not None:
            return decided
        # 6. Only rules that pass.
        passed = tier_of(at_level)

    # 7. Default deny.
    return Judgement(PolicyVerdict.DENY, reason=Reason.POLICY_DENIED, audit=policy.audit)


def _decide(covering: _Covering, at_level: int, *, audit: bool) -> Judgement | None:
    """What the rules of one level come to, None if all they do is pass."""
    strongest = max(covering, key=lambda does: does.low_byte)
    if strongest is PASS:
        return None
    deciding = covering[strongest]
    # What only an equal port voids: a plain allow beside the limits, at this level.
    voided = strongest in (_HTTP, _DNS) and _voided(deciding, covering.get(_ALLOW, ()))
    http: list[HttpRule] | None = None
    dns: list[FqdnPeer] | None = None
    server_names: list[str] | None = None
    if strongest is _HTTP:
        http = [match for rule, _ in deciding for match in rule.http or ()] + [HttpRule()] * voided
    elif strongest is _TLS:
        server_names = [name for rule, _ in deciding for name in rule.server_names or ()]
    elif strongest is _DNS:
        dns = [peer for rule, _ in deciding for peer in rule.dns or ()] + [FqdnPeer(match_pattern="*")] * voided
    return Judgement(
        strongest.verdict,
        strongest.proxy,
        Reason.POLICY_DENY if strongest is _DENY else Reason.NONE,
        precedence(at_level, strongest.low_byte),
        tuple(dict.fromkeys(rule.origin for rule, _ in deciding)),
        http=None if http is None else tuple(dict.fromkeys(http)),
        dns=None if dns is None else tuple(dict.fromkeys(dns)),
        server_names=None if server_names is None else tuple(dict.fromkeys(server_names)),
        audit=audit and strongest is not _ALLOW,
        log=next((rule.log for rule, _ in deciding if rule.log), ""),
    )


def _voided(limiting: Iterable[tuple[Rule, list[PortKey]]], plain: Iterable[tuple[Rule, list[PortKey]]]) -> bool:
    keys = {key for _, found in plain for key in found}
    return any(key in keys for _, found in limiting for key in found)
