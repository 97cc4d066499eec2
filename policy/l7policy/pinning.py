# SPDX-License-Identifier: Apache-2.0
"""Which names a request may give as its Host when its server's address was allowed for names.

One address serves many names (a CDN): a workload that may talk to ``shop.example`` learns the address of the CDN, and
may ask it for ``evil.example`` just as well. With names pinned (``http.pin_names``) Host must be a name that one of the
``toFQDNs`` selectors matches by which the destination was allowed, unless it was also allowed by what it is anyway (a
CIDR, an entity, any peer).

Pure. Failure verdict: a Host that is no name agrees with no selector.
"""

import re
from typing import Final

from l7policy import judgement
from l7policy.judgement import Judgement
from l7policy.model import Action, EndpointPolicy, FqdnPeer, Labels
from l7policy.names import NameSet, fold, name_set
from l7policy.selectors import matches_any
from l7policy.verdict import Direction

_HOST: Final = re.compile(rb"([-0-9A-Za-z_.]+)(?::[0-9]{1,5})?")


def pins(
    policy: EndpointPolicy, judged: Judgement, direction: Direction, remote: Labels, protocol: int, port: int
) -> NameSet | None:
    """The names of the rules that `judged` comes from, None if Host does not matter."""
    found: dict[FqdnPeer, None] = {}
    for rule in policy.rules:
        if rule.direction != direction or rule.action != Action.ALLOW:
            continue
        if judgement.precedence(judgement.level(rule), 0) >> 8 != judged.precedence >> 8:
            continue
        if not judgement.covers(rule, protocol, port) or not matches_any(rule.peers, remote):
            continue
        if rule.peers is None:
            return None
        for peer in rule.peers:
            if matches_any((peer,), remote):
                if not isinstance(peer, FqdnPeer):
                    return None
                found[peer] = None
    return name_set(tuple(found)) if found else None


def agrees(names: NameSet, host: bytes) -> bool:
    """Whether the Host of a request, with or without a port, is one of the names."""
    name = _HOST.fullmatch(host)
    return name is not None and names.matches(fold(name[1].decode("ascii")))
