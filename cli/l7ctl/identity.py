# SPDX-License-Identifier: Apache-2.0
"""`l7ctl identity`: the numbers that policy is keyed by, and what they stand for."""

import click

from l7ctl import tables
from l7ctl.output import items, output_option
from l7ctl.session import Session, pass_session


@click.group()
def identity() -> None:
    """Show identities: numbers for sets of labels, for CIDRs, and for sets of name selectors.

    \b
    Examples:
      l7ctl identity list
      l7ctl identity list -o json | jq '.[].id'
    """


@identity.command("list")
@output_option()
@pass_session
def list_(session: Session, output: str) -> None:
    """List the identities of this node.

    \b
    Examples:
      l7ctl identity list
      l7ctl identity list -o json | jq '.[] | select(.kind == "fqdn")'
    """
    items(tables.IDENTITIES, session.client.get("/identities"), output)
