# SPDX-License-Identifier: Apache-2.0
"""`l7ctl audit`: reads the audit log itself, so it works while the daemon does not."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from l7ctl.errors import Failure
from l7ctl.output import output_option, table
from l7ctl.session import Session, pass_session
from l7observe import record
from l7observe.compact import compact
from l7observe.record import AuditRecord
from l7observe.tail import Tail
from l7policy.verdict import Reason

POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted: values of one field are alternatives, fields must all fit."""

    layers: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()

    def accepts(self, found: AuditRecord) -> bool:
        """Whether the record is wanted."""
        return (
            (not self.layers or found.layer in self.layers)
            and (not self.reasons or found.reason in self.reasons)
            and (not self.verdicts or found.verdict in self.verdicts)
            and (not self.endpoints or not self.endpoints.isdisjoint((found.endpoint.name, str(found.endpoint.id))))
        )

    def accepts_line(self, line: bytes) -> bool:
        """Whether the line is a record that is wanted."""
        found = record.decode(line)
        return found is not None and self.accepts(found)


@click.group()
def audit() -> None:
    """Read the audit log: one record for everything that was denied, or would have been but for audit mode.

    \b
    Examples:
      l7ctl audit tail -f
      l7ctl audit tail -n 100 -o json | jq -r .reason
    """


@audit.command()
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=20, show_default=True, help="How many of the last records."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new records, across rotations, until Ctrl-C.")
@click.option(
    "--layer", "layers", multiple=True, type=click.Choice(["packet", "http", "dns", "tls"]), help="May be repeated."
)
@click.option("--endpoint", "endpoints", multiple=True, metavar="NAME|ID", help="Whose policy denied. May be repeated.")
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice([reason.name for reason in Reason if reason], case_sensitive=False),
    metavar="NAME",
    help="POLICY_DENIED, HTTP_DENIED, DNS_DENIED… May be repeated.",
)
@click.option(
    "--verdict",
    "verdicts",
    multiple=True,
    type=click.Choice(["DROPPED", "AUDIT", "ERROR"], case_sensitive=False),
    help="AUDIT: what passed only because of audit mode. May be repeated.",
)
@click.option("--file", type=click.Path(path_type=Path), help="The log.  [default: the configuration's]")
@click.option("--node", is_flag=True, help="Show the node's name.")
@output_option(("compact", "table", "json"))
@pass_session
def tail(
    session: Session,
    lines: int,
    follow: bool,
    layers: tuple[str, ...],
    endpoints: tuple[str, ...],
    reasons: tuple[str, ...],
    verdicts: tuple[str, ...],
    file: Path | None,
    node: bool,
    output: str,
) -> None:
    """Show the last denies; with -f, also those to come.

    \b
    Examples:
      l7ctl audit tail
      l7ctl audit tail -f --layer http --endpoint web
      l7ctl audit tail -n 1000 --verdict AUDIT -o table
      l7ctl audit tail -n 1000 -o json | jq -r .reason | sort | uniq -c
    """
    if follow and output == "table":
        raise click.UsageError("-f goes with -o compact or -o json")
    path = file or session.audit_path
    wanted = Filter(frozenset(layers), frozenset(endpoints), frozenset(reasons), frozenset(verdicts))
    try:
        if not follow and not path.exists():
            raise Failure(f"{path} does not exist", "nothing was denied yet, or the log is elsewhere: --file PATH")
        with Tail(path) as log:
            _print(log.last(lines, wanted.accepts_line), output, node)
            while follow:
                _print(filter(wanted.accepts_line, log.poll()), output, node)
                time.sleep(POLL_SECONDS)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        hint = "run as root, or join the group l7" if isinstance(error, PermissionError) else ""
        raise Failure(f"cannot read {path}: {error.strerror or error}", hint) from error


def _print(lines: Iterable[bytes], output: str, node: bool) -> None:
    if output == "json":
        for line in lines:
            click.echo(line)
        return
    records = [found for found in map(record.decode, lines) if found is not None]
    if output == "table":
        table(record.COLUMNS, records, wide=node)
        return
    for found in records:
        click.echo(compact(found, node=node))
