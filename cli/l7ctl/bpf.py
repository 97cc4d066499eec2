# SPDX-License-Identifier: Apache-2.0
"""`l7ctl bpf`: the kernel's tables as they are, not as they should be."""

import click

from l7ctl import tables
from l7ctl.output import items, output_option
from l7ctl.session import Session, pass_session


@click.group()
def bpf() -> None:
    """Show what the kernel holds."""


@bpf.group()
def policy() -> None:
    """The verdicts."""


@policy.command("get")
@click.argument("endpoint", metavar="[ID|NAME]", required=False)
@output_option()
@pass_session
def get(session: Session, endpoint: str | None, output: str) -> None:
    """List verdict entries with their counters: of one workload, or all.

    \b
    Examples:
      l7ctl bpf policy get
      l7ctl bpf policy get web -o wide
    """
    query = {"endpoint": endpoint} if endpoint else {}
    items(tables.BPF_POLICY, session.client.get("/bpf/policy", **query), output)


@bpf.group()
def ipcache() -> None:
    """Which identity an address has."""


@ipcache.command("list")
@output_option()
@pass_session
def list_(session: Session, output: str) -> None:
    """List prefixes and their identities.

    \b
    Examples:
      l7ctl bpf ipcache list
      l7ctl bpf ipcache list -o json | jq '.[] | select(.identity >= 25165824)'
    """
    items(tables.BPF_IPCACHE, session.client.get("/bpf/ipcache"), output)
