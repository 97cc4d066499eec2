# SPDX-License-Identifier: Apache-2.0
"""`l7ctl observe`: flows by what is in them, the last ones and those to come, in the manner of `hubble observe`.

The daemon keeps the last flows and streams new ones; what fits is chosen here. `l7ctl monitor` shows every packet, in
the manner of `cilium monitor`; `l7ctl audit` reads what was denied from the log.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import click

from l7ctl.errors import ExitCode, Failure
from l7ctl.output import output_option, table
from l7ctl.session import Session, pass_session
from l7observe import flowlines, record
from l7observe.compact import compact
from l7observe.flow import FlowType
from l7observe.hub import RING, Lost
from l7observe.record import AuditRecord
from l7observe.recordfilter import End, FilterError, RecordFilter, expressions, status
from l7policy.verdict import Reason, Verdict

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_VERDICTS: Final = [verdict.name for verdict in Verdict]


F = TypeVar("F", bound=Callable[..., Any])


def _many(*names: str, **settings: Any) -> Callable[[F], F]:
    return click.option(*names, multiple=True, **settings)


@click.command()
@click.option("--last", "-n", type=click.IntRange(0, RING), default=20, show_default=True, help="So many kept flows.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new flows, until Ctrl-C.")
@click.option("--since", metavar="TIME", help="Not before: 5m, 2h, or RFC 3339.")
@click.option("--until", metavar="TIME", help="Before: the same.")
@_many("--type", "-t", "types", type=click.Choice([kind.value for kind in FlowType]), help="Kind of event.")
@_many("--verdict", "verdicts", type=click.Choice(_VERDICTS, case_sensitive=False), help="What became of it.")
@_many(
    "--reason",
    "reasons",
    type=click.Choice([one.name for one in Reason], case_sensitive=False),
    metavar="NAME",
    help="POLICY_DENIED, HTTP_DENIED…",
)
@_many("--traffic-direction", "directions", type=click.Choice(["ingress", "egress"]), help="Seen from the endpoint.")
@_many("--protocol", "protocols", metavar="NAME", help="tcp, udp, icmp, http, dns, tls…")
@_many("--from", "from_", metavar="ENDPOINT", help="Sent by: name or address.")
@_many("--to", "to", metavar="ENDPOINT", help="Sent to.")
@_many("--endpoint", "either", metavar="ENDPOINT", help="Sent by or to.")
@_many("--from-label", metavar="LABEL", help="Sent by a workload with the label.")
@_many("--to-label", metavar="LABEL", help="Sent to one.")
@_many("--label", "-l", metavar="LABEL", help="Either.")
@_many("--from-identity", type=int, metavar="NUMBER", help="Sent by the identity.")
@_many("--to-identity", type=int, metavar="NUMBER", help="Sent to it.")
@_many("--port", "ports", type=click.IntRange(1, 65535), help="Destination port.")
@_many("--policy", "rules", metavar="REGEX", help="Rule, or policies that selected the endpoint.")
@_many("--http-method", "methods", metavar="METHOD", help="GET, POST…")
@_many("--http-host", "hosts", metavar="REGEX", help="Host of the request.")
@_many("--http-path", "paths", metavar="REGEX", help="Path with its query; need not match all of it.")
@_many("--http-status", "statuses", metavar="STATUS", help="404, or 4+ for every 4xx.")
@_many("--dns-query", "queries", metavar="REGEX", help="Name that was asked for.")
@_many("--sni", "server_names", metavar="REGEX", help="Server name of TLS.")
@click.option("-4", "--ipv4", is_flag=True, help="IPv4 only.")
@click.option("-6", "--ipv6", is_flag=True, help="IPv6 only.")
@click.option("--not", "inverted", is_flag=True, help="Show what does not fit instead.")
@output_option(("compact", "table", "json"))
@pass_session
def observe(session: Session, /, last: int, follow: bool, inverted: bool, output: str, **asked: Any) -> None:
    """Show flows that fit: the last ones that are kept, and with -f those to come.

    Denies are always kept. What passes is kept while somebody listens, or always with `access_log: true`. An option
    given several times fits if one value does; different options must all fit.

    \b
    Examples:
      l7ctl observe --verdict DROPPED --last 100
      l7ctl observe -f --dns-query '\\.example\\.com$'
      l7ctl observe -f --endpoint web --http-status 5+ --http-path '^/api/'
      l7ctl observe --since 10m --from-label app=web -o json | jq -r .destination.address
    """
    if follow and output == "table":
        raise click.UsageError("-f goes with -o compact or -o json")
    try:
        wanted = _filter(asked, datetime.now(UTC))
    except FilterError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from error
    show = _Shown(wanted, inverted, output)
    query = [("type", kind) for kind in asked["types"]]
    # Listening begins before the kept flows are read, so that none falls in between; some then come twice.
    live = session.client.stream("/flows", [*query, ("last", "0"), ("follow", "true")]) if follow else None
    if live is not None:
        next(live, None)
    lines = list(session.client.stream("/flows", [*query, ("last", str(RING)), ("follow", "false")]))
    kept = deque(show.chosen(lines), maxlen=last)
    if output == "table":
        table(record.COLUMNS, kept)
        return
    for one in kept:
        show.print(one)
    if live is not None:
        seen = set(lines)
        for one in show.chosen(line for line in live if line not in seen):
            show.print(one)
        click.echo("l7ctl: l7d went away", err=True)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is shown, and how."""

    wanted: RecordFilter
    inverted: bool
    output: str

    def chosen(self, lines: Iterable[bytes]) -> Iterator[AuditRecord]:
        """The records of a stream that are wanted. What was lost on the way is told at once."""
        for text in lines:
            found = flowlines.decode(text)
            if isinstance(found, Lost):
                click.echo(f"l7ctl: {flowlines.sentence(found)}", err=True)
            elif isinstance(found, AuditRecord) and self.wanted.accepts(found) != self.inverted:
                yield found

    def print(self, one: AuditRecord) -> None:
        """One line, at once."""
        click.echo(record.encode(one).rstrip(b"\n") if self.output == "json" else compact(one))


def _filter(asked: dict[str, Any], now: datetime) -> RecordFilter:
    """Raises FilterError."""
    families = {4: asked["ipv4"], 6: asked["ipv6"]}
    return RecordFilter(
        types=frozenset(asked["types"]),
        verdicts=frozenset(map(str.upper, asked["verdicts"])),
        reasons=frozenset(map(str.upper, asked["reasons"])),
        directions=frozenset(asked["directions"]),
        protocols=frozenset(map(str.upper, asked["protocols"])),
        families=frozenset(family for family, given in families.items() if given),
        source=End(frozenset(asked["from_"]), frozenset(asked["from_label"]), frozenset(asked["from_identity"])),
        destination=End(
            frozenset(asked["to"]),
            frozenset(asked["to_label"]),
            frozenset(asked["to_identity"]),
            frozenset(asked["ports"]),
        ),
        either=End(frozenset(asked["either"]), frozenset(asked["label"])),
        rules=expressions(asked["rules"]),
        methods=frozenset(map(str.upper, asked["methods"])),
        hosts=expressions(asked["hosts"]),
        paths=expressions(asked["paths"]),
        statuses=frozenset(map(status, asked["statuses"])),
        queries=expressions(asked["queries"]),
        server_names=expressions(asked["server_names"]),
        since=_moment(asked["since"], now),
        until=_moment(asked["until"], now),
    )


def _moment(text: str | None, now: datetime) -> str:
    """``5m`` ago, or a time, as records have it. Raises FilterError."""
    if not text:
        return ""
    ago = re.fullmatch(r"(\d+)([smhd])", text)
    try:
        moment = now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]]) if ago else datetime.fromisoformat(text)
        return record.timestamp(moment.astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        raise FilterError(f"{text[:40]!r} is no time: write 90s, 5m, 2h, 1d, or 2026-01-31T12:00:00Z") from None
