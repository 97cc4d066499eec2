# SPDX-License-Identifier: Apache-2.0
"""Questions from the audit log: what was denied then, asked again.

A record knows the labels that an address had, not the names it was learnt under: for a selector with stars some name
that it matches stands in.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from l7ctl.explain import judged
from l7observe import record
from l7observe.record import AuditPeer, AuditRecord
from l7policy.headers import REDACTED
from l7policy.question import HttpRequest, Question, Side
from l7policy.selectors import KUBE_APISERVER_LABEL, WORLD_LABEL, is_workload
from l7policy.verdict import Direction, Protocol, Verdict

_STAND_IN: Final = "replayed"


def questions(lines: Iterable[bytes]) -> tuple[list[Question], int]:
    """The questions, and how many lines ask nothing: torn, about what no policy judges, or with a query left out."""
    asked: list[Question] = []
    skipped = 0
    for line in lines:
        found = record.decode(line)
        asking = None if found is None else question(found)
        if asking is None:
            skipped += bool(line.strip())
        else:
            asked.append(asking)
    return asked, skipped


def question(found: AuditRecord) -> Question | None:
    """What the record's flow asks, None if policy cannot be asked about it."""
    if found.protocol not in Protocol.__members__ or found.protocol == Protocol.ANY.name:
        return None
    source, destination = _side(found.source), _side(found.destination)
    if source is None or destination is None:
        return None
    if found.verdict == Verdict.AUDIT.name:
        # The end whose policy decided was audited then.
        if found.direction == Direction.EGRESS.name.lower():
            source = replace(source, audit=True)
        else:
            destination = replace(destination, audit=True)
    if found.http and REDACTED in found.http.path:
        return None
    protocol = Protocol[found.protocol]
    http = None
    if found.http and found.http.path.startswith("/"):
        http = judged(HttpRequest(found.http.method, found.http.path, found.http.host))
    dns = found.dns.query if found.dns and http is None else None
    return Question(source, destination, (protocol,), found.destination.port, http, dns)


def _side(peer: AuditPeer) -> Side | None:
    text = peer.name or peer.address
    labels = frozenset(peer.labels)
    if is_workload(labels) or (WORLD_LABEL not in labels and any(one.startswith("reserved:") for one in labels)):
        return Side(text, labels=labels)
    names = tuple(
        label.removeprefix("fqdn:").replace("**", "*").replace("*", _STAND_IN) + "."
        for label in sorted(labels)
        if label.startswith("fqdn:") and label.strip("fqdn:*.")
    )
    if not peer.address:
        return None
    known = labels & {KUBE_APISERVER_LABEL}
    return Side(text, known, prefix=f"{peer.address}/{128 if ':' in peer.address else 32}", names=names)
