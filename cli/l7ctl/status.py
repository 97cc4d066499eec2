# SPDX-License-Identifier: Apache-2.0
"""`l7ctl status`: is it enforcing, with what, and is anything lost?"""

from collections.abc import Mapping
from typing import Any

import click

from l7ctl import tables
from l7ctl.output import count, line, output_option, styled, table, value
from l7ctl.session import Session, pass_session
from l7observe.columns import printable


@click.command()
@click.option("--verbose", is_flag=True, help="Show what the kernel has attached for each endpoint, too.")
@output_option(("table", "json", "yaml"))
@pass_session
def status(session: Session, verbose: bool, output: str) -> None:
    """Show what the daemon is doing. Ends with 1 if something keeps it from enforcing as it was told to.

    \b
    Examples:
      l7ctl status
      l7ctl status --verbose
      l7ctl status -o json | jq .revision
    """
    answer = session.client.get("/status")
    if output == "table":
        _describe(answer, verbose)
    else:
        value(answer, output)
    if answer.get("problems"):
        raise SystemExit(1)


def duration(seconds: float) -> str:
    """``3d 4h``, ``4h 5m``, ``5m 6s`` or ``6s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{number}{unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if number]
    return " ".join(parts[:2]) or "0s"


def _describe(answer: Mapping[str, Any], verbose: bool) -> None:
    node = answer.get("node", {})
    datapath = answer.get("datapath", {})
    audit = answer.get("audit", {})
    _row(
        "Agent", f"l7d {answer.get('version')}, pid {answer.get('pid')}, up {duration(answer.get('uptime_seconds', 0))}"
    )
    _row("Node", f"{node.get('hostname')}, kernel {node.get('kernel')}")
    counts = ((answer.get(f"{kind}", 0), noun) for kind, noun in _COUNTED)
    _row("Revision", f"{answer.get('revision')}: {', '.join(count(number, noun) for number, noun in counts)}")
    _row(
        "Datapath",
        f"layout {datapath.get('layout')}, attached by {datapath.get('attach')}, pinned at {datapath.get('pins')}",
    )
    _row("Enforcement", _enforcement(answer))
    left_out = f", {audit['left_out']} left out" if audit.get("left_out") else ""
    _row("Audit log", f"{audit.get('path')}: {audit.get('written')} written, {audit.get('lost')} lost{left_out}")
    if answer.get("policy_load_error"):
        _warn("The policy files were not loaded; the revision above stays in force:", answer["policy_load_error"])
    if answer.get("endpoints_load_error"):
        _warn("The declared endpoints were not loaded; those of before stay:", answer["endpoints_load_error"])
    if audit.get("error"):
        _warn("The audit log could not be written:", audit["error"])
    if answer.get("events_lost"):
        _warn("Drops that are in no audit record (the kernel's ring was full):", str(answer["events_lost"]))
    if audited := answer.get("audited_endpoints"):
        share = f"{len(audited)} of {count(answer.get('endpoints', 0), 'endpoint')}"
        _warn(f"Audit mode: what policy denies PASSES and is only recorded, for {share}:", ", ".join(audited))
    if problems := answer.get("problems"):
        _warn(f"Degraded: {count(len(problems), 'problem')}", "\n".join(problems))
    for title, columns, key in (*_TABLES, *(_VERBOSE if verbose else ())):
        if answer.get(key):
            age = answer.get("maps_age_seconds") if key == "maps" else None
            line(f"\n{title}" + (f", counted {age:.0f} s ago" if age else ""))
            table(columns, answer[key], indent=2)


def _enforcement(answer: Mapping[str, Any]) -> str:
    passed = answer.get("audited", {}).get("packets", 0)
    text = f"{answer.get('enforcement')}, policy audit mode {'on' if answer.get('policy_audit_mode') else 'off'}"
    return f"{text}, {count(passed, 'audited packet')} reported" if passed else text


_COUNTED = (("policies", "policy"), ("endpoints", "endpoint"), ("identities", "identity"))
_TABLES = (
    ("Processes", tables.PROCESSES, "processes"),
    ("Kernel tables", tables.MAPS, "maps"),
    ("Dropped packets", tables.DROPS, "drops"),
)
_VERBOSE = (("Endpoints, as the kernel has them", tables.ENFORCED, "enforced"),)


def _row(name: str, text: str) -> None:
    line(f"{name:<12}{printable(text)}")


def _warn(sentence: str, text: str) -> None:
    line("\n" + styled(sentence, "red"))
    for part in text.splitlines():
        line(f"  {printable(part)}")
