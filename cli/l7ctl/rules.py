# SPDX-License-Identifier: Apache-2.0
"""`l7ctl rules`: check, compare, load and take back policies."""

from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from l7ctl import policyfiles, tables
from l7ctl.errors import ExitCode, Failure, describe
from l7ctl.explain import explain_
from l7ctl.output import changes, count, items, line, output_option, table, value
from l7ctl.session import Session, pass_session
from l7observe.columns import printable
from l7policy import documents
from l7policy.errors import PolicyErrors


@click.group()
def rules() -> None:
    """Check, explain, test, list, compare, load and take back policies."""


rules.add_command(explain_)


@rules.command()
@click.argument("files", metavar="[FILE|DIR|-]…", nargs=-1)
@output_option(("text", "json"))
@pass_session
@click.pass_context
def check(context: click.Context, session: Session, files: tuple[str, ...], output: str) -> None:
    """Check policy files without a daemon: no root, no kernel, nothing changes.

    Without a file, the configuration's policy directory. Exit code 1 if anything is wrong.

    \b
    Examples:
      l7ctl rules check policy.yaml
      l7ctl rules check examples/policies -o json
      kubectl get cnp web -o yaml | l7ctl rules check -
    """
    read = policyfiles.read(files or [session.config.policies])
    problems = list(read.problems)
    policies: Sequence[documents.Policy] = ()
    try:
        policies = documents.load(read.sources)
    except PolicyErrors as error:
        problems.extend(error.errors)
    if output == "json":
        value(_checked(read, policies, problems), "json")
    else:
        for problem in problems:
            line(describe(_plain(problem)))
        if problems:
            line(f"{count(len(problems), 'problem')} in {count(len(read.sources), 'file')}")
        else:
            line(f"{count(len(read.sources), 'file')}, {count(len(policies), 'policy')}: valid")
        for name in read.empty:
            click.echo(f"l7ctl: {printable(name)} holds no *.yaml or *.yml", err=True)
    if problems:
        context.exit(ExitCode.FAILED)


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
@click.argument("files", metavar="[FILE|DIR|-]…", nargs=-1)
@output_option(("table", "json", "yaml"))
@pass_session
def diff(session: Session, files: tuple[str, ...], output: str) -> None:
    """Show what loading files would change; nothing is loaded.

    Without a file, the daemon's policy directory. The files stand for all policies: what is in force and not in
    them would be removed.

    \b
    Examples:
      l7ctl rules diff
      l7ctl rules diff new-policies/
    """
    sources = None
    if files:
        read = policyfiles.read(files)
        if read.problems:
            raise Failure("some files cannot be read", problems=map(_plain, read.problems))
        sources = [{"path": source.path, "text": source.text} for source in read.sources]
    answer = session.client.post("/rules/diff", {"sources": sources})
    if output != "table":
        value(answer, output)
        return
    if not any(answer.get(key) for key in ("added", "removed", "modified", "endpoints")):
        line("nothing would change")
        return
    changes(answer)
    if answer.get("endpoints"):
        line("\nEndpoints whose verdicts would change")
        table(tables.AFFECTED, answer["endpoints"], indent=2)


@rules.command()
@output_option(("table", "json", "yaml"))
@pass_session
def reload(session: Session, output: str) -> None:
    """Load the policy directory: all of it, or nothing.

    A mistake in any file changes nothing, and exits with 1 and the line. Connections that exist are judged by the new
    rules from their next packet and request on.

    \b
    Examples:
      l7ctl rules reload
      l7ctl rules reload -o json | jq .revision
    """
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


def _checked(read: policyfiles.PolicyFiles, policies: Sequence[Any], problems: Sequence[Any]) -> dict[str, Any]:
    return {
        "valid": not problems,
        "files": [source.path for source in read.sources],
        "policies": [
            {"name": one.name, "kind": one.kind, "file": one.file, "line": one.line, "rules": len(one.rules)}
            for one in policies
        ],
        "problems": [_plain(problem) for problem in problems],
    }


def _plain(problem: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("path", "line", "column", "message", "hint")}
