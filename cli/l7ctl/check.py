# SPDX-License-Identifier: Apache-2.0
"""`l7ctl rules check`: mistakes, which no daemon would load, and warnings about what is legal and surely not meant.

For people, for programs, and as SARIF for code hosts. Needs no daemon. What is found is `l7policy`'s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from l7ctl import asking, policyfiles, sarif
from l7ctl.errors import ExitCode, describe
from l7ctl.output import count, line, output_option, styled, value
from l7ctl.session import Session, pass_session
from l7observe.columns import printable
from l7policy import documents, yamltree
from l7policy.errors import PolicyError, PolicyErrors
from l7policy.findings import Finding, finding_at
from l7policy.lint import lint
from l7policy.model import Origin
from l7policy.policydoc import Policy

_LINTED_REFUSED: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Checked:
    """What one run found."""

    read: policyfiles.PolicyFiles
    policies: Sequence[Policy]
    problems: Sequence[PolicyError]
    warnings: Sequence[Finding]


@click.command()
@click.argument("files", metavar="[FILE|DIR|-]…", nargs=-1)
@click.option("--cluster", "clusters", multiple=True, metavar="FILE|DIR", help="Warn of selectors that match no pod.")
@click.option("--strict", is_flag=True, help="Exit code 1 for warnings, too.")
@output_option(("text", "json", "sarif"))
@pass_session
@click.pass_context
def check(
    context: click.Context,
    session: Session,
    files: tuple[str, ...],
    clusters: tuple[str, ...],
    strict: bool,
    output: str,
) -> None:
    """Check policy files without a daemon: no root, no kernel, nothing changes.

    Without a file, the configuration's policy directory. Exit code 1 if anything is wrong; what is legal but surely
    not meant is a warning. What only the daemon's configuration knows (other nodes, the API server) is taken from it
    then, and if it is named: l7ctl --config FILE rules check.

    \b
    Examples:
      l7ctl rules check policy.yaml
      l7ctl rules check examples/policies --cluster pods.yaml --strict
      l7ctl rules check examples/policies -o sarif > l7.sarif
      kubectl get cnp web -o yaml | l7ctl rules check -
    """
    with asking.usage():
        given = asking.sources(clusters)
        cluster = asking.read_cluster(given) if clusters else None
    read = policyfiles.read(files or [session.config.policies])
    problems = list(read.problems)
    policies: Sequence[Policy] = ()
    try:
        policies = documents.load(read.sources, given)
    except PolicyErrors as error:
        problems.extend(error.errors)
    # Warnings help with a refused file, too, but are not worth reading a huge one once more.
    linted = [source for source in read.sources if not problems or len(source.text) <= _LINTED_REFUSED]
    told = session.config.surroundings.told if session.named or not files else ()
    warnings = (*lint(linted, policies, cluster, told), *([] if problems else _without_policy(read, policies)))
    checked = Checked(read, policies, problems, warnings)
    if output == "json":
        value(_json(checked), "json")
    elif output == "sarif":
        value(sarif.log(problems, checked.warnings), "json")
    else:
        _text(checked)
    if problems or (strict and checked.warnings):
        context.exit(ExitCode.FAILED)


def _without_policy(read: policyfiles.PolicyFiles, policies: Sequence[Policy]) -> Iterator[Finding]:
    """Folders and files that hold no policy. What policies refer to may have a file of its own, beside them."""
    for name in read.empty:
        yield finding_at("no-policy", Origin("", "", name), "there is no *.yaml or *.yml in it")
    holding = {policy.file for policy in policies}
    for source in read.sources:
        if source.path not in holding and (not policies or not yamltree.parse(source.path, source.text)):
            yield finding_at("no-policy", Origin("", "", source.path), "there is no policy in it")


def _text(checked: Checked) -> None:
    for problem in checked.problems:
        line(describe(asking.plain(problem)))
    for found in checked.warnings:
        words = f"{styled(found.severity, 'yellow')}: {printable(found.message)} [{found.rule}]"
        place = f"{found.path}:{found.line}:{found.column}" if found.line else found.path
        line(f"{printable(place)}: {words}")
        if found.hint:
            line(f"  hint: {printable(found.hint)}")
    files, warnings = count(len(checked.read.sources), "file"), count(len(checked.warnings), "warning")
    if checked.problems:
        more = f", {warnings}," if checked.warnings else ""
        line(f"{count(len(checked.problems), 'problem')}{more} in {files}")
    else:
        more = f", {warnings}" if checked.warnings else ""
        line(f"{files}, {count(len(checked.policies), 'policy')}: valid{more}")


def _json(checked: Checked) -> dict[str, Any]:
    return {
        "valid": not checked.problems,
        "files": [source.path for source in checked.read.sources],
        "policies": [
            {"name": one.name, "kind": one.kind, "file": one.file, "line": one.line, "rules": len(one.rules)}
            for one in checked.policies
        ],
        "problems": [asking.plain(problem) for problem in checked.problems],
        "warnings": [
            {
                "path": found.path,
                "line": found.line,
                "column": found.column,
                "rule": found.rule,
                "severity": found.severity,
                "message": found.message,
                "hint": found.hint,
            }
            for found in checked.warnings
        ],
    }
