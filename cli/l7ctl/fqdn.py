# SPDX-License-Identifier: Apache-2.0
"""`l7ctl fqdn`: what was learnt from DNS, and what no name explains."""

import fnmatch

import click

from l7ctl import tables
from l7ctl.output import count, items, line, output_option, table, value
from l7ctl.session import Session, pass_session
from l7observe.columns import cell

SOURCES = ("lookup", "connection", "operator")


@click.group()
def fqdn() -> None:
    """Show names, the addresses learnt for them, and flows that no name explains.

    \b
    Examples:
      l7ctl fqdn names
      l7ctl fqdn cache list
      l7ctl fqdn explain api.example.com
    """


@fqdn.group()
def cache() -> None:
    """The addresses that names stand for at present."""


@cache.command("list")
@click.option("-e", "--endpoint", default="", metavar="NAME", help="Only what this workload asked for.")
@click.option("-p", "--pattern", default="*", metavar="GLOB", help="Only names like this: '*.example.com'.")
@click.option("-s", "--source", type=click.Choice(SOURCES), default=None, help="Only what was learnt like this.")
@output_option()
@pass_session
def list_(session: Session, endpoint: str, pattern: str, source: str | None, output: str) -> None:
    """List learnt addresses, their identity and when they are forgotten.

    Source is lookup for what a name server said, operator for what the file of dns.pre_cache said, and connection for
    what is over and only goes on for connections that were open by then; identity is then what those go by.

    What `-o json` prints can be the file of the config key dns.pre_cache.

    \b
    Examples:
      l7ctl fqdn cache list
      l7ctl fqdn cache list -p '*.example.com' -e web -o yaml
      l7ctl fqdn cache list -s connection
    """
    wanted = pattern.lower().rstrip(".")
    found = [
        entry
        for entry in session.client.get("/fqdn/cache")
        if fnmatch.fnmatchcase(str(entry.get("name", "")).rstrip("."), wanted)
        and (not endpoint or str(entry.get("endpoint")) == endpoint)
        and source in (None, entry.get("source"))
    ]
    items(tables.FQDN_CACHE, found, output)


@cache.command()
@click.option("-p", "--pattern", required=True, metavar="PATTERN", help="As in matchPattern: '*.example.com'.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@pass_session
def clean(session: Session, pattern: str, force: bool) -> None:
    """Forget names before their time. Their addresses are closed until they are asked for again.

    \b
    Examples:
      l7ctl fqdn cache clean -p api.example.com
      l7ctl fqdn cache clean -p '*' -f
    """
    if not force:
        click.confirm(f"forget every name like {cell(pattern)}?", abort=True, err=True)
    answer = session.client.post("/fqdn/cache/clean", {"pattern": pattern})
    line(f"{count(int(answer['forgotten']), 'name')} forgotten")


@fqdn.command()
@output_option()
@pass_session
def names(session: Session, output: str) -> None:
    """List the toFQDNs selectors in force, and the names and addresses that each matches at present.

    \b
    Examples:
      l7ctl fqdn names
      l7ctl fqdn names -o json | jq '.[] | select(.addresses == [])'
    """
    items(tables.FQDN_NAMES, session.client.get("/fqdn/names"), output)


@fqdn.command()
@click.argument("name")
@output_option(("table", "json", "yaml"))
@pass_session
def explain(session: Session, name: str, output: str) -> None:
    """Say which patterns match a name and which do not, who may ask for it and reach it, and where it leads now.

    \b
    Examples:
      l7ctl fqdn explain api.example.com
      l7ctl fqdn explain api.example.com -o json
    """
    found = session.client.get("/fqdn/explain", name=name)
    if output != "table":
        value(found, output)
        return
    line(f"name      {cell(found['name'])}")
    for kind, verb in (("rules.dns", "asked for by"), ("toFQDNs", "reached by")):
        users = sorted({one for view in found["patterns"] if view["matches"] and view["in"] == kind
                        for one in view["endpoints"]})  # fmt: skip
        line(f"may be    {verb} {cell(users) if users else 'nobody'}")
    line("patterns")
    table(tables.FQDN_PATTERNS, found["patterns"], indent=2)
    line("addresses" if found["addresses"] else "addresses  none: it was not asked for, or its time is over")
    if found["addresses"]:
        table(tables.FQDN_ADDRESSES, found["addresses"], indent=2)


@fqdn.command()
@click.option("-e", "--endpoint", default="", metavar="NAME", help="Only of this workload.")
@output_option()
@pass_session
def audit(session: Session, endpoint: str, output: str) -> None:
    """List flows to the world whose address no name was learnt for.

    Such flows come from addresses written into programs, from names whose time is over, or from a resolver that the
    DNS proxy did not see. The policy examples/policies/optional/no-encrypted-dns.yaml refuses the known ones.

    \b
    Examples:
      l7ctl fqdn audit
      l7ctl fqdn audit -e web -o json
    """
    found = session.client.get("/fqdn/audit")
    items(tables.FQDN_AUDIT, [row for row in found if not endpoint or row.get("endpoint") == endpoint], output)


@fqdn.command()
@output_option(("table", "json", "yaml"))
@pass_session
def status(session: Session, output: str) -> None:
    """Show what the DNS proxy has done, how fast, and how full its cache is.

    \b
    Examples:
      l7ctl fqdn status
      l7ctl fqdn status -o json | jq .learn_p99_ms
    """
    found = session.client.get("/fqdn/status")
    if output != "table":
        value(found, output)
        return
    for key, number in found.items():
        if not isinstance(number, list):
            shown = f"{number:g}" if isinstance(number, float) else cell(number)
            line(f"{key:22} {shown}")
