# SPDX-License-Identifier: Apache-2.0
"""`l7ctl demo`: the main job on real traffic, in a lab of network namespaces that is gone afterwards.

Touches neither the machine's network nor a daemon that runs on it. What is tried is in `l7lab.scenario`; here it is
told.
"""

import json
import signal
import sys
import time
from collections.abc import Sequence

import click

from l7agent import preflight
from l7agent.config import Config
from l7ctl.errors import ExitCode, Failure
from l7ctl.output import count, items, line, output_option, styled
from l7lab import Lab, LabError, LabUnavailableError, Terminated, sweep
from l7lab.gate import Gate, commands, program
from l7lab.scenario import Check, Scenario
from l7observe.columns import Column, Columns, printable
from l7observe.compact import compact
from l7observe.record import AuditRecord, decode

COLUMNS: Columns[Check] = Columns(
    Column("name", "CHECK", "What was tried", lambda check: check.name),
    Column("expected", "EXPECTED", "What should happen", lambda check: check.expected),
    Column("got", "GOT", "What happened", lambda check: check.got),
    Column("ok", "", "Whether it did", lambda check: check.ok, text=lambda ok: "ok" if ok else "WRONG"),
)


@click.command()
@output_option(("table", "json"))
@click.option("--keep", is_flag=True, help="Leave the lab and its daemon running, and say how to play with them.")
@click.option("--clean", is_flag=True, help="Only remove what earlier demos left running.")
@click.pass_context
def demo(context: click.Context, output: str, keep: bool, clean: bool) -> None:
    """Show what l7gate does, on real traffic between network namespaces.

    Builds a node, workloads and an outside world with real servers, starts the daemon with the example policies, and
    tries what they allow and what they deny; reloads rules and kills the agent while traffic runs. Needs root, about
    twenty seconds, and leaves nothing behind. Exit code 0 only if everything went as expected.

    \b
    Examples:
      sudo l7ctl demo
      sudo l7ctl demo -o json | jq '.checks[] | select(.ok | not)'
      sudo l7ctl demo --keep
      sudo l7ctl demo --clean
    """
    if clean:
        line(f"{count(len(sweep(kept=True)), 'lab')} removed")
        return
    try:
        context.exit(run_demo(output, keep))
    except LabUnavailableError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from error
    except LabError as error:
        raise Failure(str(error), "everything the demo had built is removed again") from error
    except KeyboardInterrupt as ending:
        say("interrupted; everything it had built is removed again")
        context.exit(128 + (ending.number if isinstance(ending, Terminated) else signal.SIGINT))


def run_demo(output: str, keep: bool) -> int:
    """Play it; returns the exit code."""
    missing = preflight.first_missing(Config())
    if missing is not None:
        raise LabUnavailableError(f"{missing.name}: found {missing.found}, need {missing.needed}. {missing.remedy}")
    began = time.monotonic()
    say("building the lab: a node, three workloads, an outside host with nginx and dnsmasq")
    with Lab() as lab:
        gate = Gate(lab)
        try:
            say("starting l7d on the node with examples/policies")
            gate.start()
            say("registering frontend, batch and backend as endpoints")
            gate.add_all()
        except LabError:
            say_end_of_log(gate)
            raise
        checks = list(Scenario(gate, say).run())
        report(checks, gate, time.monotonic() - began, output)
        good = all(check.ok for check in checks)
        if not good:
            say_end_of_log(gate)
        if keep:
            lab.keep()
            say_how_to_play(gate, to_stderr=output == "json")
    return ExitCode.OK if good else ExitCode.FAILED


def report(checks: Sequence[Check], gate: Gate, seconds: float, output: str) -> None:
    """All that is printed on standard output."""
    if output == "json":
        click.echo(json.dumps({"checks": COLUMNS.records(checks)}, indent=2))
        return
    items(COLUMNS, checks, output)
    line("\nThe audit log, one record of each kind:\n")
    text = gate.audit_log.read_text() if gate.audit_log.exists() else ""
    records = [record for one in text.splitlines() if (record := decode(one)) is not None]
    shown = kinds(records)
    for record in shown:
        line(compact(record))
    if len(records) > len(shown):
        line(f"... and {count(len(records) - len(shown), 'record')} more of these kinds")
    wrong = sum(not check.ok for check in checks)
    verdict = styled(f"{wrong} of {len(checks)} checks went wrong", "red") if wrong else f"all {len(checks)} checks ok"
    line(f"\n{verdict}, in {seconds:.1f} s")


def kinds(records: Sequence[AuditRecord]) -> list[AuditRecord]:
    """The first of each kind: repetition in a stream tells nothing new."""
    first: dict[object, AuditRecord] = {}
    for record in records:
        what = (record.http or None, record.dns or None)
        first.setdefault((record.reason, record.endpoint.id, record.destination.where, what), record)
    return list(first.values())


def say_end_of_log(gate: Gate) -> None:
    """What the daemon itself has to say, for when something went wrong."""
    log = gate.lab.folder / "l7d.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    for each in text.splitlines()[-40:]:
        say(f"l7d: {printable(each)}")


def say_how_to_play(gate: Gate, to_stderr: bool) -> None:
    """The commands for a lab that stays."""
    click.echo("\nThe lab is still there. Play with it:\n", err=to_stderr)
    for command in commands(gate):
        click.echo(f"  {command}", err=to_stderr)
    click.echo(f"\nRemove it:\n\n  {program('l7ctl')} demo --clean", err=to_stderr)


def say(text: str) -> None:
    """Progress, on standard error."""
    click.echo(f"demo: {text}", err=True)
    sys.stderr.flush()
