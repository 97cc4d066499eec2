# SPDX-License-Identifier: Apache-2.0
"""`l7ctl fqdn`: what was learnt from DNS."""

import fnmatch

import click

from l7ctl import tables
from l7ctl.output import items, output_option
from l7ctl.session import Session, pass_session


@click.group()
def fqdn() -> None:
    """Show names and the addresses learnt for them."""


@fqdn.group()
def cache() -> None:
    """The addresses that names stand for at present."""


@cache.command("list")
@click.option("-e", "--endpoint", default="", metavar="NAME", help="Only what this workload asked for.")
@click.option("-p", "--pattern", default="*", metavar="GLOB", help="Only names like this: '*.example.com'.")
@output_option()
@pass_session
def list_(session: Session, endpoint: str, pattern: str, output: str) -> None:
    """List learnt addresses, their identity and when they are forgotten.

    \b
    Examples:
      l7ctl fqdn cache list
      l7ctl fqdn cache list -p '*.example.com' -e web -o yaml
    """
    wanted = pattern.lower().rstrip(".")
    found = [
        entry
        for entry in session.client.get("/fqdn/cache")
        if fnmatch.fnmatchcase(str(entry.get("name", "")).rstrip("."), wanted)
        and (not endpoint or str(entry.get("endpoint")) == endpoint)
    ]
    items(tables.FQDN_CACHE, found, output)
