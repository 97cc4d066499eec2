# SPDX-License-Identifier: Apache-2.0
"""`l7ctl bpf`: the kernel's tables as they are, not as they should be."""

from typing import Any

import click

from l7ctl import tables
from l7ctl.errors import Failure
from l7ctl.output import items, output_option
from l7ctl.session import Session, pass_session
from l7observe.columns import Columns

_numeric = click.option("-n", "--numeric", is_flag=True, help="Show identities by number only.")


@click.group()
def bpf() -> None:
    """Show what the kernel holds: verdicts, flows, identities of addresses.

    \b
    Examples:
      l7ctl bpf policy get web
      l7ctl bpf ct list web
      l7ctl bpf ipcache get 198.51.100.1
    """


@bpf.group()
def policy() -> None:
    """The verdicts of an endpoint's policy, with what each has counted."""


@policy.command("get")
@click.argument("endpoint", metavar="[ID|NAME]", required=False)
@click.option("--all", "everything", is_flag=True, help="Of all workloads; the default without a name.")
@_numeric
@output_option()
@pass_session
def get(session: Session, endpoint: str | None, everything: bool, numeric: bool, output: str) -> None:
    """List verdict entries with their counters: of one workload, or all.

    PACKETS and BYTES are those that an entry was asked about: the first packet of each flow (and of each revision of
    the rules) that it allows, and every packet that it denies. `l7ctl bpf ct list` counts all packets of a flow.

    \b
    Examples:
      l7ctl bpf policy get
      l7ctl bpf policy get web -o wide
    """
    if endpoint and everything:
        raise click.UsageError("either a workload or --all")
    query = {"endpoint": endpoint} if endpoint else {}
    items(_shown(tables.BPF_POLICY, numeric), session.client.get("/bpf/policy", **query), output)


@bpf.group()
def ct() -> None:
    """Flows that were judged, and are remembered (conntrack)."""


@ct.command("list")
@click.argument("endpoint", metavar="[ID|NAME]", required=False)
@output_option()
@pass_session
def list_flows(session: Session, endpoint: str | None, output: str) -> None:
    """List the flows that the kernel remembers, with all their packets: of one workload, or all.

    \b
    Examples:
      l7ctl bpf ct list web
      l7ctl bpf ct list -o json | jq '.[] | select(.proxy == "http")'
    """
    query = {"endpoint": endpoint} if endpoint else {}
    items(tables.BPF_CONNTRACK, session.client.get("/bpf/conntrack", **query), output)


@bpf.group()
def ipcache() -> None:
    """Which identity an address has."""


@ipcache.command("list")
@_numeric
@output_option()
@pass_session
def list_(session: Session, numeric: bool, output: str) -> None:
    """List prefixes and their identities.

    \b
    Examples:
      l7ctl bpf ipcache list
      l7ctl bpf ipcache list -o json | jq '.[] | select(.identity >= 25165824)'
    """
    items(_shown(tables.BPF_IPCACHE, numeric), session.client.get("/bpf/ipcache"), output)


@ipcache.command("get")
@click.argument("prefix")
@output_option()
@pass_session
def get_prefix(session: Session, prefix: str, output: str) -> None:
    """Show the entry of exactly this address or prefix.

    \b
    Examples:
      l7ctl bpf ipcache get 192.0.2.1
      l7ctl bpf ipcache get 198.51.100.0/24
    """
    whole = prefix if "/" in prefix else f"{prefix}/{128 if ':' in prefix else 32}"
    found = session.client.get("/bpf/ipcache", covering=prefix)
    if found["prefix"] != whole:
        raise Failure(f"{prefix} has no entry of its own", f"it falls under {found['prefix']}: l7ctl bpf ipcache match")
    items(tables.BPF_IPCACHE, [found], output)


@ipcache.command()
@click.argument("address")
@output_option()
@pass_session
def match(session: Session, address: str, output: str) -> None:
    """Show the entry that a packet from or to this address finds: the longest prefix that covers it.

    \b
    Example:
      l7ctl bpf ipcache match 198.51.100.7
    """
    items(tables.BPF_IPCACHE, [session.client.get("/bpf/ipcache", covering=address)], output)


@bpf.command()
@click.option("--last", type=click.IntRange(0, 4096), default=0, help="Begin with so many kept ones.  [default: 0]")
@click.option("--no-follow", is_flag=True, help="Show the kept ones only, and end.")
@pass_session
def events(session: Session, last: int, no_follow: bool) -> None:
    """Show what the datapath tells, as JSON lines: every drop, verdict and packet.

    As `l7ctl monitor -t drop -t policy-verdict -t trace -o json`, without waiting for an agent that went away.

    \b
    Example:
      l7ctl bpf events | jq -c '[.type, .verdict, .source.address, .destination.address]'
    """
    query = [("type", kind) for kind in ("drop", "policy-verdict", "trace")]
    query += [("last", str(last)), ("follow", "false" if no_follow else "true")]
    for text in session.client.stream("/flows", query):
        click.echo(text)


def _shown(columns: Columns[Any], numeric: bool) -> Columns[Any]:
    return Columns(*(column for column in columns if column.name != "labels")) if numeric else columns
