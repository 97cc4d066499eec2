# SPDX-License-Identifier: Apache-2.0
"""`l7ctl rules`: check, compare, load and take back policies."""

from collections.abc import Mapping
from typing import Any, Final

import click

from l7ctl import tables
from l7ctl.check import check
from l7ctl.explain import explain_
from l7ctl.output import changes, count, items, line, output_option, value
from l7ctl.policydiff import diff
from l7ctl.policytest import test
from l7ctl.session import Session, pass_session
from l7observe.columns import cell

_MOST_NAMED: Final = 10
"""Endpoints told by name for people; JSON has them all."""


@click.group()
def rules() -> None:
    """Check, explain, test, list, compare, load and take back policies.

    \b
    Examples:
      l7ctl rules check policies/
      l7ctl rules explain -f policies/ --from app=web --to app=db --port 5432/TCP
      l7ctl rules diff policies/ new-policies/
      l7ctl rules reload
    """


rules.add_command(check)
rules.add_command(explain_)
rules.add_command(test)
rules.add_command(diff)


@rules.command("list")
@output_option()
@pass_session
def list_(session: Session, output: str) -> None:
    """List the policies in force.

    \b
    Examples:
      l7ctl rules list
      l7ctl rules list -o json | jq '.[] | select(.endpoints == 0)'
    """
    items(tables.POLICIES, session.client.get("/rules")["policies"], output)


@rules.command()
@click.argument("folders", metavar="", nargs=-1)
@output_option(("table", "json", "yaml"))
@pass_session
def reload(session: Session, folders: tuple[str, ...], output: str) -> None:
    """Load the policy directory: all of it, or nothing. Tells what changed, and for whom.

    A mistake in any file changes nothing, and exits with 1 and the line. Connections that exist are judged by the new
    rules from their next packet and request on.

    \b
    Examples:
      l7ctl rules reload
      l7ctl rules reload -o json | jq .revision
    """
    if folders:
        raise click.UsageError(
            f"the daemon loads its own directory ({session.config.policies}, key policies), and no other: put files"
            f" there. `l7ctl rules diff {folders[0]}` shows what others would change"
        )
    _loaded(session.client.post("/rules/reload", {}), output)


@rules.command()
@click.argument("revision", type=click.IntRange(min=0), required=False)
@output_option(("table", "json", "yaml"))
@pass_session
def rollback(session: Session, revision: int | None, output: str) -> None:
    """Bring an earlier rule set back into force, as a new revision.

    Without a number, the one before the present. The files in the policy directory stay as they are, so the next
    reload loads them again.

    \b
    Examples:
      l7ctl rules rollback
      l7ctl rules rollback 7
    """
    _loaded(session.client.post("/rules/rollback", {"revision": revision}), output)


@rules.command()
@output_option()
@pass_session
def revisions(session: Session, output: str) -> None:
    """List the rule sets that `rollback` can return to.

    \b
    Examples:
      l7ctl rules revisions
    """
    items(tables.REVISIONS, session.client.get("/rules/revisions"), output)


def _loaded(answer: Mapping[str, Any], output: str) -> None:
    if output != "table":
        value(answer, output)
        return
    if not answer.get("changed", True):
        line(f"nothing changed; revision {answer['revision']} stays in force")
        return
    parts = [f"{len(answer.get(key) or ())} {key}" for key in ("added", "removed", "modified")]
    line(
        f"revision {answer['revision']} is in force: {', '.join(parts)}; "
        f"{count(answer.get('endpoints_changed', 0), 'endpoint')} changed; {answer.get('milliseconds', 0):g} ms"
    )
    changes(answer)
    names = answer.get("endpoints") or ()
    if names:
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        line(f"  other rules for {', '.join(map(cell, names[:_MOST_NAMED]))}{more}")
