# SPDX-License-Identifier: Apache-2.0
"""`l7ctl endpoint`: the workloads of this node."""

import click

from l7ctl import tables
from l7ctl.output import items, line, output_option, value
from l7ctl.session import Session, pass_session
from l7observe.columns import cell


@click.group()
def endpoint() -> None:
    """List, add and remove workloads."""


@endpoint.command("list")
@output_option()
@pass_session
def list_(session: Session, output: str) -> None:
    """List the workloads and what is enforced on them.

    \b
    Examples:
      l7ctl endpoint list
      l7ctl endpoint list -o wide
      l7ctl endpoint list -o json | jq '.[].name'
    """
    items(tables.ENDPOINTS, session.client.get("/endpoints"), output)


@endpoint.command()
@click.option(
    "--netns", required=True, metavar="NAME|PATH", help="Its network namespace: a name of `ip netns`, or a path."
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="What policies select it by: at least one. May be repeated.",
)
@click.option("--name", default="", help="What people call it.  [default: the namespace's name]")
@click.option("--interface", default="", help="Its interface on the node's side.  [default: found by itself]")
@output_option(("table", "json", "yaml"))
@pass_session
def add(session: Session, netns: str, labels: tuple[str, ...], name: str, interface: str, output: str) -> None:
    """Put a network namespace under policy.

    \b
    Examples:
      l7ctl endpoint add --netns blue --label app=web --label tier=front
      l7ctl endpoint add --netns /proc/4711/ns/net --label app=db --name db
    """
    body = {"netns": netns, "labels": list(labels)}
    body |= {key: text for key, text in (("name", name), ("interface", interface)) if text}
    added = session.client.post("/endpoints", body)
    if output != "table":
        value(added, output)
        return
    line(
        f"endpoint {added['id']} ({cell(added.get('name'))}) added: {cell(added.get('addresses'))}, "
        f"identity {cell(added.get('identity'))}, enforcing {cell(added.get('enforcing'))}, {cell(added.get('state'))}"
    )
    if added.get("message"):
        line(f"  {cell(added['message'])}")


@endpoint.command()
@click.argument("endpoints", metavar="ID|NAME…", nargs=-1, required=True)
@pass_session
def remove(session: Session, endpoints: tuple[str, ...]) -> None:
    """Stop enforcing on workloads. Their traffic is judged no more.

    What a file in endpoints.d declares comes back when the daemon reads it again (SIGHUP or a restart).

    \b
    Examples:
      l7ctl endpoint remove blue
      l7ctl endpoint remove 3 4
    """
    for name in endpoints:
        session.client.delete("/endpoints", name)
        line(f"endpoint {cell(name)} removed")
