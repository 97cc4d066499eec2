# SPDX-License-Identifier: Apache-2.0
"""`l7ctl rules diff`: what other policies would change.

Two arguments are compared with each other, without a daemon: the flows whose verdict would change. None or one is
compared with what is in force: policies and endpoints, as the daemon sees them.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from l7ctl import asking, policyfiles, replay, tables
from l7ctl.errors import ExitCode, Failure
from l7ctl.output import changes, count, line, output_option, table, value
from l7ctl.session import Session, pass_session
from l7observe.columns import Column, Columns
from l7policy import documents, probes
from l7policy.changes import compare
from l7policy.question import Question
from l7policy.whatif import Difference, differences

FLOWS: Final = Columns[Difference](
    Column("source", "SOURCE", "Who", lambda one: one.question.source.text),
    Column("destination", "DESTINATION", "Whom", lambda one: one.question.destination.text),
    Column("port", "PORT", "On which port", lambda one: one.question.where),
    Column("what", "WHAT", "The request, name or server name", lambda one: _what(one.question)),
    Column("before", "BEFORE", "Verdict by the old policies", lambda one: _word(one.before.verdict, one.before.reason)),
    Column("after", "AFTER", "Verdict by the new policies", lambda one: _word(one.after.verdict, one.after.reason)),
    Column("count", "COUNT", "How often it is in the log", lambda one: one.count, justify="right"),
)


@click.command()
@click.argument("files", metavar="[OLD NEW | FILE|DIR|-]…", nargs=-1)
@click.option(
    "--replay", "log", type=click.Path(path_type=Path), metavar="FILE", help="Ask about the flows of this audit log."
)
@click.option("--cluster", "clusters", multiple=True, metavar="FILE|DIR", help="Ask about these pods.")
@click.option("--exit-code", "fail", is_flag=True, help="Exit code 1 if a verdict changes.")
@asking.assumptions
@output_option(("table", "json", "yaml"))
@pass_session
@click.pass_context
def diff(
    context: click.Context,
    session: Session,
    files: tuple[str, ...],
    log: Path | None,
    clusters: tuple[str, ...],
    fail: bool,
    assumed: asking.Assumed,
    output: str,
) -> None:
    """Show what other policies would change; nothing is loaded.

    OLD and NEW, each a file or a directory, are compared without a daemon: every flow whose verdict would change,
    among those of an audit log or among samples of all that the policies speak of. Without OLD, the daemon compares
    with what is in force, by default its policy directory. What is not in the new policies would be removed.

    \b
    Examples:
      l7ctl rules diff policies/ new-policies/
      l7ctl rules diff policies/ new-policies/ --replay /var/log/l7/audit.jsonl
      l7ctl rules diff
      l7ctl rules diff new-policies/
    """
    if len(files) == 2:
        found = _offline(files[0], files[1], log, clusters, assumed, output)
        if fail and found:
            context.exit(ExitCode.FAILED)
        return
    if len(files) > 2:
        raise click.UsageError("compare OLD with NEW, or one directory with what is in force")
    if log is not None or clusters or fail or assumed != asking.Assumed():
        raise click.UsageError("only --output goes without OLD and NEW: the daemon knows the rest")
    _with_daemon(session, files, output)


def _with_daemon(session: Session, files: Sequence[str], output: str) -> None:
    sources = None
    if files:
        read = policyfiles.read(files)
        if read.problems:
            raise Failure("some files cannot be read", problems=map(asking.plain, read.problems))
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


def _offline(
    old: str, new: str, log: Path | None, clusters: Sequence[str], assumed: asking.Assumed, output: str
) -> tuple[Difference, ...]:
    with asking.usage():
        given = asking.sources(clusters)
        before, after = (documents.load(asking.sources([name]), given) for name in (old, new))
        cluster = asking.read_cluster(given)
        questions = (
            _questions(log)
            if log is not None
            else list(itertools.islice(probes.probes(before, after, cluster), probes.LIMIT + 1))
        )
    if log is None and len(questions) > probes.LIMIT:
        click.echo(
            f"l7ctl: only the first {probes.LIMIT} flows are compared; --cluster or --replay names fewer", err=True
        )
    setting = asking.offline_known((*before, *after), cluster, assumed).setting
    found = differences(before, after, questions[: probes.LIMIT] if log is None else questions, setting)
    policies = compare(before, after)
    listed: dict[str, Any] = {
        "added": list(policies.added),
        "removed": list(policies.removed),
        "modified": list(policies.modified),
    }
    if output != "table":
        value({**listed, "flows": FLOWS.records(found)}, output)
        return found
    if policies.empty and not found:
        line("nothing would change")
        return found
    changes(listed)
    line(f"\n{count(len(found), 'flow')} of {len(set(questions))} would be judged differently")
    if found:
        table(FLOWS, found, indent=2)
    return found


def _questions(log: Path) -> list[Question]:
    try:
        with log.open("rb") as lines:
            asked, skipped = replay.questions(lines)
    except OSError as error:
        raise Failure(f"cannot read {log}: {error.strerror or error}", code=ExitCode.USAGE) from error
    if skipped:
        click.echo(f"l7ctl: {count(skipped, 'line')} of {log} ask nothing of policies", err=True)
    return asked


def _what(question: Question) -> str:
    if question.http is not None:
        return f"{question.http.method} {question.http.host}{question.http.path}"
    return question.dns or question.sni or ""


def _word(verdict: str, reason: str) -> str:
    return verdict if reason == "NONE" else f"{verdict} {reason}"
