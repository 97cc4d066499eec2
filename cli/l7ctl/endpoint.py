# SPDX-License-Identifier: Apache-2.0
"""`l7ctl endpoint`: the workloads of this node."""

from collections.abc import Mapping
from urllib.parse import quote

import click

from l7ctl import tables
from l7ctl.output import items, line, output_option, value
from l7ctl.session import Session, pass_session
from l7observe.columns import cell


@click.group()
def endpoint() -> None:
    """List, add, change and remove workloads.

    \b
    Examples:
      l7ctl endpoint list
      l7ctl endpoint add --netns blue --label app=web
      l7ctl endpoint remove blue
    """


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
    "--netns", default="", metavar="NAME|PATH", help="Its network namespace: a name of `ip netns`, or a path."
)
@click.option("--cgroup", default="", metavar="PATH", help="Or its cgroup, if it shares the node's network.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="What policies select it by. May be repeated. Without any it is reserved:init, and denied by default.",
)
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="NAME=NUMBER/TCP",
    help="A port that policies call by name. May be repeated.",
)
@click.option(
    "--audit/--no-audit",
    default=None,
    help="Whether what its policy denies passes, and is only recorded.  [default: key policy_audit_mode]",
)
@click.option("--name", default="", help="What people call it.  [default: the last part of the path]")
@click.option("--interface", default="", help="Its interface on the node's side.  [default: found by itself]")
@output_option(("table", "json", "yaml"))
@pass_session
def add(
    session: Session,
    netns: str,
    cgroup: str,
    labels: tuple[str, ...],
    ports: tuple[str, ...],
    audit: bool | None,
    name: str,
    interface: str,
    output: str,
) -> None:
    """Put a network namespace, or the processes of a cgroup, under policy.

    \b
    Examples:
      l7ctl endpoint add --netns blue --label app=web --label tier=front
      l7ctl endpoint add --netns /proc/4711/ns/net --label app=db --name db
      l7ctl endpoint add --netns blue --label app=web --port http=8080/TCP --audit
      l7ctl endpoint add --cgroup /system.slice/backup.service --label app=backup
    """
    if bool(netns) == bool(cgroup):
        raise click.UsageError("give either --netns or --cgroup")
    given = {"netns": netns, "cgroup": cgroup, "name": name, "interface": interface, "ports": list(ports)}
    body: dict[str, object] = {"labels": list(labels)} | {key: said for key, said in given.items() if said}
    if audit is not None:
        body["audit"] = audit
    added = session.client.post("/endpoints", body)
    if output != "table":
        value(added, output)
        return
    place = cell(added.get("addresses") or added.get("cgroup"))
    line(
        f"endpoint {added['id']} ({cell(added.get('name'))}) added: {place}, "
        f"identity {cell(added.get('identity'))}, enforcing {cell(added.get('enforcing'))}, {cell(added.get('state'))}"
    )
    if added.get("labels") == []:
        line(
            "  no labels yet: only policies for reserved:init allow it anything; `l7ctl endpoint labels` gives it some"
        )
    if added.get("message"):
        line(f"  {cell(added['message'])}")
    if added.get("audit"):
        line(f"  {_AUDITED}")


@endpoint.command()
@click.argument("name", metavar="ID|NAME")
@output_option(("table", "json", "yaml"))
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one workload, with everything that is known of it.

    \b
    Examples:
      l7ctl endpoint get blue
      l7ctl endpoint get 3 -o json | jq .audit
    """
    found = session.client.get(f"/endpoints/{quote(name, safe='')}")
    if output != "table":
        value(found, output)
        return
    for column in tables.ENDPOINTS:
        line(f"{column.header:16} {cell(column.value(found))}")
    if found.get("audit"):
        line(_AUDITED)


@endpoint.command()
@click.argument("name", metavar="ID|NAME")
@click.option("-a", "--add", "added", multiple=True, metavar="KEY=VALUE", help="Set a label. May be repeated.")
@click.option("-d", "--delete", "deleted", multiple=True, metavar="KEY", help="Take a label away. May be repeated.")
@output_option(("table", "json", "yaml"))
@pass_session
def labels(session: Session, name: str, added: tuple[str, ...], deleted: tuple[str, ...], output: str) -> None:
    """Give a workload other labels, or show those it has.

    The policies that then select it are in force when the command ends, for established connections too. The labels of
    a workload that a file in endpoints.d declares are changed in that file.

    \b
    Examples:
      l7ctl endpoint labels blue
      l7ctl endpoint labels blue -a tier=front -d team
    """
    if added or deleted:
        found = session.client.patch("/endpoints", name, "labels", {"add": list(added), "delete": list(deleted)})
    else:
        found = session.client.get(f"/endpoints/{quote(name, safe='')}")
    if output != "table":
        value(found["labels"], output)
        return
    for label in found["labels"]:
        counts = "" if label in found["identity_labels"] else "  (does not count: policies do not know it)"
        line(f"{cell(label)}{counts}")


@endpoint.command()
@click.argument("name", metavar="ID|NAME")
@click.argument("options", metavar="[OPTION=VALUE]…", nargs=-1)
@output_option(("table", "json", "yaml"))
@pass_session
def config(session: Session, name: str, options: tuple[str, ...], output: str) -> None:
    """Set an option of a workload, or show them. It stays when the daemon is restarted.

    \b
    PolicyAuditMode=Enabled    what its policy denies passes, and is recorded with verdict AUDIT
    PolicyAuditMode=Disabled   what its policy denies is denied
    PolicyAuditMode=Default    as the workload was declared, else as the configuration says (policy_audit_mode)

    \b
    Examples:
      l7ctl endpoint config blue
      l7ctl endpoint config blue PolicyAuditMode=Enabled
    """
    if options:
        found = session.client.patch("/endpoints", name, "config", {"audit": _audit_mode(options)})
    else:
        found = session.client.get(f"/endpoints/{quote(name, safe='')}")
    mode = "Enabled" if found["audit"] else "Disabled"
    if output == "table":
        line(f"PolicyAuditMode  {mode}{' (by default)' if found['audit_set'] is None else ''}")
    else:
        value({"PolicyAuditMode": mode}, output)


_AUDITED = "audit mode: what its policy denies PASSES and is only recorded"
_AUDIT_MODES: Mapping[str, bool | None] = {"enabled": True, "disabled": False, "default": None}


def _audit_mode(options: tuple[str, ...]) -> bool | None:
    """What the options come to: the last one counts."""
    for option in options:
        key, _, mode = option.partition("=")
        if key.lower() != "policyauditmode" or mode.lower() not in _AUDIT_MODES:
            raise click.UsageError(f"{option!r}: the one option is PolicyAuditMode=Enabled, =Disabled or =Default")
    return _AUDIT_MODES[options[-1].partition("=")[2].lower()]


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
