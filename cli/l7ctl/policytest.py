# SPDX-License-Identifier: Apache-2.0
"""`l7ctl rules test`: whether policies do what was expected of them, as a table, JSON and JUnit XML.

Exit codes: 0 all as expected, 1 some are not, 2 invalid cases or policies. What is answered is `l7policy.cases`'s.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from l7ctl import asking, junit
from l7ctl.errors import ExitCode, Failure
from l7ctl.explain import judged
from l7ctl.output import count, line, output_option, styled, table, value
from l7ctl.policyfiles import STDIN
from l7ctl.session import Session, pass_session
from l7observe.columns import Column, Columns, printable
from l7policy import cases
from l7policy.cases import CaseFile, Outcome
from l7policy.errors import PolicyErrors
from l7policy.explain import plain

COLUMNS: Final = Columns[Outcome](
    Column("result", "RESULT", "ok or FAILED", lambda outcome: "FAILED" if outcome.problem else "ok"),
    Column("case", "CASE", "What it is called, or asks", junit.title),
    Column("expected", "EXPECTED", "What was expected", lambda outcome: outcome.case.expect),
    Column("got", "GOT", "The answer", lambda outcome: outcome.got),
)


@click.command("test")
@click.argument("files", metavar="CASES…", nargs=-1, required=True)
@click.option(
    "-f", "--file", "policies", multiple=True, metavar="FILE|DIR", help="Policies, instead of the cases' own."
)
@click.option(
    "--cluster", "clusters", multiple=True, metavar="FILE|DIR", help="Pods, nodes…, instead of the cases' own."
)
@click.option("--junit", "report", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML, too.")
@asking.assumptions
@output_option(("text", "json"))
@pass_session
@click.pass_context
def test(
    context: click.Context,
    session: Session,
    files: tuple[str, ...],
    policies: tuple[str, ...],
    clusters: tuple[str, ...],
    report: Path | None,
    assumed: asking.Assumed,
    output: str,
) -> None:
    """Test policies against what is expected of them, without a daemon.

    A file is a list of cases: from, to, port and expect (allow, deny, a verdict, a reason, 403 or REFUSED), and if
    wanted name, http, host, headers, dns, sni and because (a policy). It may name its policies and its cluster.

    \b
    Examples:
      l7ctl rules test examples/tests/cases.yaml
      l7ctl rules test cases.yaml -f policies/ --cluster pods.yaml --junit report.xml
    """
    with asking.usage():
        found = [cases.load(source) for source in asking.sources(files)]
        suites = [(one.path, _run(session, one, policies, clusters, assumed)) for one in found]
    if report is not None:
        try:
            report.write_bytes(junit.document(suites))
        except OSError as error:
            raise Failure(f"cannot write {report}: {error.strerror or error}", code=ExitCode.USAGE) from error
    outcomes = [outcome for _, some in suites for outcome in some]
    if output == "json":
        value([_json(outcome) for outcome in outcomes], "json")
    else:
        _text(outcomes)
    if any(outcome.problem for outcome in outcomes):
        context.exit(ExitCode.FAILED)


def _run(
    session: Session, found: CaseFile, policies: Sequence[str], clusters: Sequence[str], assumed: asking.Assumed
) -> Sequence[Outcome]:
    """Raises PolicyErrors."""
    folder = Path() if found.path == STDIN else Path(found.path).parent
    known = asking.known(
        session,
        policies or [str(folder / name) for name in found.policies],
        clusters or [str(folder / name) for name in found.cluster],
        assumed,
    )
    try:
        return cases.run(found.cases, known.policies, known.side, judged, known.setting)
    except PolicyErrors as error:
        raise Failure(
            "some cases ask nothing", problems=map(asking.plain, error.errors), code=ExitCode.USAGE
        ) from error


def _text(outcomes: Sequence[Outcome]) -> None:
    table(COLUMNS, outcomes)
    failed = [outcome for outcome in outcomes if outcome.problem]
    for outcome in failed:
        place = outcome.case.place
        line(f"\n{printable(f'{place.path}:{place.line}:{place.column}')}: {styled(printable(outcome.problem), 'red')}")
        if outcome.answer.nearest and outcome.case.expect == "allow":
            line(f"  nearest: {printable(outcome.answer.nearest)}")
    line(f"\n{count(len(outcomes), 'case')}, {len(failed)} failed")


def _json(outcome: Outcome) -> dict[str, Any]:
    place = outcome.case.place
    return {
        "name": junit.title(outcome),
        "file": place.path,
        "line": place.line,
        "passed": not outcome.problem,
        "expected": outcome.case.expect,
        "got": outcome.got,
        "problem": outcome.problem,
        "answer": plain(outcome.answer),
    }
