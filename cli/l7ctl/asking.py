# SPDX-License-Identifier: Apache-2.0
"""What questions are asked about: policies and a cluster, from files or from the daemon.

Shared by the commands that judge by themselves. A mistake in a file is exit code 2 here, because exit code 1 means that
the answer is *denied*.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from l7ctl import policyfiles
from l7ctl.errors import ExitCode, Failure
from l7ctl.session import Session
from l7observe.columns import printable
from l7policy import cluster, documents, question
from l7policy.cluster import Cluster, Endpoint
from l7policy.errors import PolicyError, PolicyErrors
from l7policy.hop import Setting
from l7policy.model import NamedPort
from l7policy.policydoc import Policy, Source
from l7policy.question import QuestionError, Side
from l7policy.resolve import Mode
from l7policy.verdict import Protocol


@dataclass(frozen=True, slots=True)
class Known:
    """Policies, and who there is."""

    policies: tuple[Policy, ...]
    cluster: Cluster
    learnt: tuple[tuple[str, str], ...] = ()
    """Name and address, as the daemon has learnt them."""
    mode: Mode = Mode.DEFAULT
    """Whom the daemon enforces policy for."""
    audit: bool = False
    """Whether the daemon audits whoever says nothing of it."""

    @property
    def setting(self) -> Setting:
        """What besides the policies decides."""
        return Setting(self.mode, self.audit, self.cluster.ports)

    def side(self, text: str) -> Side:
        """One end of a question. Raises QuestionError."""
        found = question.side(text, self.cluster)
        address = found.prefix.partition("/")[0]
        names = tuple(dict.fromkeys(name for name, known in self.learnt if known == address))
        return replace(found, names=(*found.names, *names)) if found.prefix and names else found


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Turns a question that makes no sense, and a file that is invalid, into exit code 2."""
    try:
        yield
    except QuestionError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from error
    except PolicyErrors as error:
        raise invalid(error.errors) from error
    except Failure as error:
        # No answer from the daemon is no "denied" either.
        error.code = ExitCode.USAGE if error.code == ExitCode.FAILED else error.code
        raise


def invalid(problems: Sequence[PolicyError]) -> Failure:
    """Files with mistakes."""
    return Failure("the files are invalid", problems=map(plain, problems), code=ExitCode.USAGE)


def plain(problem: PolicyError) -> dict[str, str | int]:
    """A mistake as values for JSON."""
    return {
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
    }


def sources(names: Sequence[str]) -> tuple[Source, ...]:
    """The texts of files and directories. Raises PolicyErrors."""
    read = policyfiles.read(names)
    if read.problems:
        raise PolicyErrors(read.problems)
    for name in read.empty:
        click.echo(f"l7ctl: {printable(name)} holds no *.yaml or *.yml", err=True)
    return read.sources


def read_cluster(given: Sequence[Source]) -> Cluster:
    """A cluster from texts. Raises PolicyErrors."""
    found = cluster.read(given)
    if found.passed_over:
        click.echo(f"l7ctl: passed over in --cluster: {', '.join(found.passed_over)}", err=True)
    return found


def known(session: Session, files: Sequence[str], clusters: Sequence[str]) -> Known:
    """Policies and cluster from files; what is not given, from the daemon. Raises PolicyErrors."""
    given = sources(clusters)
    offline = read_cluster(given)
    if files:
        return Known(documents.load(sources(files), given), offline)
    answer = session.client.get("/rules/sources")
    policies = documents.load([Source(one["path"], one["text"]) for one in answer["sources"]], given)
    status = session.client.get("/status")
    endpoints = {one["name"]: _endpoint(one) for one in session.client.get("/endpoints")}
    learnt = tuple((str(one["name"]), str(one["address"])) for one in session.client.get("/fqdn/cache"))
    return Known(
        policies,
        replace(offline, endpoints={**offline.endpoints, **endpoints}),
        learnt,
        Mode(status["enforcement"]),
        status["policy_audit_mode"],
    )


def _endpoint(one: Mapping[str, Any]) -> Endpoint:
    """A workload as the daemon lists it."""
    return Endpoint(
        one["name"],
        frozenset(one["identity_labels"]),
        tuple(one["addresses"]),
        tuple(map(_port, one["ports"])),
        one["audit"],
    )


def _port(text: str) -> NamedPort:
    name, _, rest = text.partition("=")
    number, _, protocol = rest.partition("/")
    return NamedPort(name, Protocol[protocol], int(number))
