# SPDX-License-Identifier: Apache-2.0
"""`l7ctl monitor`: what the datapath and the proxies decide, as they decide it.

The stream outlives the agent: when it goes, the command waits for the next one, takes what that one has kept, and says
how much was lost meanwhile.
"""

import sys
import time
from collections.abc import Iterator
from typing import BinaryIO, Final

import click

from l7ctl.errors import Failure, Unreachable
from l7ctl.output import line, output_option, styled
from l7ctl.session import Session, pass_session
from l7observe import flowlines
from l7observe.flow import FlowType
from l7observe.flowlines import Start
from l7observe.hub import RING, Lost
from l7observe.monitorline import monitor_line
from l7observe.record import AuditRecord

RETRY_SECONDS: Final = 0.5
_COLOURS: Final = {"DROPPED": "red", "ERROR": "red", "AUDIT": "yellow"}


@click.command()
@click.option(
    "-t",
    "--type",
    "types",
    multiple=True,
    type=click.Choice([kind.value for kind in FlowType]),
    help="What to show; may be repeated.  [default: everything]",
)
@click.option("--from", "sources", multiple=True, metavar="ENDPOINT", help="Sent by: name, id or address.")
@click.option("--to", "destinations", multiple=True, metavar="ENDPOINT", help="Sent to: name, id or address.")
@click.option("--related-to", "related", multiple=True, metavar="ENDPOINT", help="Sent by or to.")
@click.option("--last", type=click.IntRange(0, RING), default=0, help="Begin with so many kept flows.")
@click.option("--no-follow", is_flag=True, help="Show the kept flows only, and end.")
@click.option("--input-file", type=click.File("rb"), help="Show what `-o json` wrote earlier; - is standard input.")
@click.option("-v", "--verbose", is_flag=True, help="Also the time, labels, policies and revision.")
@output_option(("compact", "json"))
@pass_session
def monitor(
    session: Session,
    types: tuple[str, ...],
    sources: tuple[str, ...],
    destinations: tuple[str, ...],
    related: tuple[str, ...],
    last: int,
    no_follow: bool,
    input_file: BinaryIO | None,
    verbose: bool,
    output: str,
) -> None:
    """Show verdicts, drops, packets and requests live, until Ctrl-C.

    Packets that pass are recorded only while somebody listens for them, and at most 10,000 a second for each
    processor; what is lost on the way is counted and shown.

    \b
    Examples:
      l7ctl monitor --type drop
      l7ctl monitor --related-to web
      l7ctl monitor -t l7 --from web -o json | jq -r .http.path
      l7ctl monitor -t drop -t l7 --last 100 --no-follow
    """
    show = Printer(output, verbose)
    if input_file is not None:
        for text in input_file:
            show.line(text)
        return
    query = [("type", value) for value in types]
    query += [("from", value) for value in sources]
    query += [("to", value) for value in destinations]
    query += [("related", value) for value in related]
    follow = "false" if no_follow else "true"
    lost: dict[str, int] | None = None
    while True:
        gone = time.monotonic()
        for text in _stream(session, [*query, ("last", str(last)), ("follow", follow)], retry=lost is not None):
            if isinstance(start := flowlines.decode(text), Start):
                if lost is not None:
                    show.back(time.monotonic() - gone, _more(lost, start.lost))
                lost = start.lost
                continue
            show.line(text)
        if no_follow:
            return
        show.note("l7d went away; waiting for it")
        # All that the next agent has kept is new to us.
        last = RING


def _stream(session: Session, query: list[tuple[str, str]], *, retry: bool) -> Iterator[bytes]:
    """Lines until the agent goes. With `retry`, waits until there is one."""
    while True:
        try:
            lines = session.client.stream("/flows", query)
            first = next(lines, None)
        except Unreachable:
            if not retry:
                raise
            time.sleep(RETRY_SECONDS)
            continue
        if first is not None:
            yield first
            yield from lines
        elif retry:
            time.sleep(RETRY_SECONDS)
            continue
        return


def _more(before: dict[str, int], now: dict[str, int]) -> int:
    """Lost in between. A counter that is smaller now began anew."""
    return sum(
        now[source] - before.get(source, 0) if now[source] >= before.get(source, 0) else now[source] for source in now
    )


class Printer:
    """Writes lines for people or for programs."""

    def __init__(self, output: str, verbose: bool) -> None:
        self._json = output == "json"
        self._verbose = verbose

    def line(self, text: bytes) -> None:
        """One line of the stream, or of a file that it was written to."""
        self._show(flowlines.decode(text), text.rstrip(b"\n"))

    def _show(self, found: AuditRecord | Lost | Start | None, text: bytes) -> None:
        if found is None or isinstance(found, Start):
            raise Failure("a line is neither a flow nor a loss", "is it from `l7ctl monitor -o json`?")
        if self._json:
            click.echo(text)
        elif isinstance(found, Lost):
            line(styled(f">> {flowlines.sentence(found)}", "yellow"))
        else:
            line(styled(monitor_line(found, verbose=self._verbose), _COLOURS.get(found.verdict, "")))
        sys.stdout.flush()

    def note(self, sentence: str) -> None:
        """Something about the stream itself."""
        click.echo(f"l7ctl: {sentence}", err=True)

    def back(self, seconds: float, lost: int) -> None:
        """The agent is there again."""
        self.note(f"l7d is back after {seconds:.1f} s; flows lost meanwhile: {lost}")
        if lost:
            told = Lost("restart", lost)
            self._show(told, flowlines.encode(told).rstrip(b"\n"))
