# SPDX-License-Identifier: Apache-2.0
"""The readable truth: what one policy says about one flow, in the order that decides.

The kernel (`l7policy.entries` and bpf/programs) and the proxies (`l7policy.enforcement`) must come to the same verdict;
a property test compares the kernel's lookup with `judge` for random policies and flows.

    1. A direction that no policy enforces: allowed.
    2. A deny rule covers the flow: denied, whatever else matches.
    3. A rule with HTTP or DNS limits covers it: redirected to the proxy. The lists of all such rules are joined, and
       passing one of them is enough. HTTP goes before DNS.
    4. A rule without limits covers it: allowed.
    5. Nothing covers it: denied.

A plain allow does not hide the limits of an L7 rule on a port inside its range (CVE-2024-52529). Only one for *exactly*
the same protocol and ports voids them: the flow still goes through the proxy, where every request then passes.

This module may not look at addresses or identity numbers. Its failure verdict is 5.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from l7policy.model import EndpointPolicy, FqdnPeer, HttpRule, Labels, Origin, Rule
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
DNS_PRECEDENCE: Final = redirect_precedence(121)
ALLOW_PRECEDENCE: Final = 1


@dataclass(frozen=True, slots=True)
class Effect:
    """What a rule does to a flow it covers. At one key the higher precedence wins."""

    verdict: PolicyVerdict
    proxy: ProxyKind
    precedence: int


_DENY: Final = Effect(PolicyVerdict.DENY, ProxyKind.NONE, DENY_PRECEDENCE)
_HTTP: Final = Effect(PolicyVerdict.REDIRECT, ProxyKind.HTTP, HTTP_PRECEDENCE)
_DNS: Final = Effect(PolicyVerdict.REDIRECT, ProxyKind.DNS, DNS_PRECEDENCE)
_ALLOW: Final = Effect(PolicyVerdict.ALLOW, ProxyKind.NONE, ALLOW_PRECEDENCE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a flow, and what the proxy needs to judge each request or query of it."""

    verdict: PolicyVerdict
    proxy: ProxyKind = ProxyKind.NONE
    reason: Reason = Reason.NONE
    precedence: int = 0
    origins: tuple[Origin, ...] = ()
    """Rules that decided: those that deny, those that limit, or those that allow. Empty where none did."""
    http: tuple[HttpRule, ...] | None = None
    """A request must match one. None: no HTTP limit."""
    dns: tuple[FqdnPeer, ...] | None = None
    """A queried name must match one. None: no DNS limit."""


NOT_ENFORCED: Final = Judgement(PolicyVerdict.ALLOW)
DEFAULT_DENY: Final = Judgement(PolicyVerdict.DENY, reason=Reason.POLICY_DENIED)


def effect(rule: Rule) -> Effect:
    """What `rule` does to a flow it covers. Limits on a deny rule mean nothing: it denies the flow."""
    if rule.deny:
        return _DENY
    if rule.http is not None:
        return _HTTP
    return _DNS if rule.dns is not None else _ALLOW


def port_keys(rule: Rule) -> tuple[PortKey, ...]:
    """The ports that `rule` covers, each protocol on its own. ICMP types stand where ports do."""
    proxy = effect(rule).proxy
    if not rule.ports:
        if proxy == ProxyKind.NONE:
            return (ANYTHING,)
        return tuple((protocol, 0, LAST_PORT) for protocol in _PROXIED[proxy])
    keys: dict[PortKey, None] = {}
    for port in rule.ports:
        for protocol in _PROXIED[proxy] if port.protocol == Protocol.ANY else (port.protocol,):
            if proxy == ProxyKind.NONE or protocol in _PROXIED[proxy]:
                keys[int(protocol), port.first, port.last] = None
    return tuple(keys)


def _covers(key: PortKey, protocol: int, port: int) -> bool:
    return key == ANYTHING or (key[0] == protocol and key[1] <= port <= key[2])


def judge(policy: EndpointPolicy, direction: Direction, remote: Labels, protocol: int, port: int) -> Judgement:
    """What `policy` says about a flow between its endpoint and a peer with the labels `remote`.

    `port` is the destination port, the message type for ICMP, and 0 for protocols that have neither.
    """
    # 1. Nobody enforces this direction.
    if not policy.enforces(direction):
        return NOT_ENFORCED

    covering: dict[Effect, list[tuple[Rule, list[PortKey]]]] = {}
    for rule in policy.rules:
        if rule.direction == direction:
            keys = [key for key in port_keys(rule) if _covers(key, protocol, port)]
            if keys and matches_any(rule.peers, remote):
                covering.setdefault(effect(rule), []).append((rule, keys))

    # 2. Deny.
    if denying := covering.get(_DENY):
        return Judgement(PolicyVerdict.DENY, ProxyKind.NONE, Reason.POLICY_DENY, DENY_PRECEDENCE, _origins(denying))

    # 3. Redirect, the stronger proxy first.
    plain = {key for _, keys in covering.get(_ALLOW, ()) for key in keys}
    if limiting := covering.get(_HTTP):
        http = [match for rule, _ in limiting for match in rule.http or ()]
        if _voided(limiting, plain):
            http.append(HttpRule())
        return Judgement(
            PolicyVerdict.REDIRECT,
            ProxyKind.HTTP,
            precedence=HTTP_PRECEDENCE,
            origins=_origins(limiting),
            http=tuple(dict.fromkeys(http)),
        )
    if limiting := covering.get(_DNS):
        dns = [peer for rule, _ in limiting for peer in rule.dns or ()]
        if _voided(limiting, plain):
            dns.append(FqdnPeer(match_pattern="*"))
        return Judgement(
            PolicyVerdict.REDIRECT,
            ProxyKind.DNS,
            precedence=DNS_PRECEDENCE,
            origins=_origins(limiting),
            dns=tuple(dict.fromkeys(dns)),
        )

    # 4. Allow.
    if allowing := covering.get(_ALLOW):
        return Judgement(PolicyVerdict.ALLOW, precedence=ALLOW_PRECEDENCE, origins=_origins(allowing))

    # 5. Default deny.
    return DEFAULT_DENY


def _voided(limiting: Iterable[tuple[Rule, list[PortKey]]], plain: set[PortKey]) -> bool:
    return any(key in plain for _, keys in limiting for key in keys)


def _origins(rules: Iterable[tuple[Rule, list[PortKey]]]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(rule.origin for rule, _ in rules))
