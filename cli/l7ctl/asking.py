# SPDX-License-Identifier: Apache-2.0
"""What questions are asked about: policies and a cluster, from files or from the daemon.

Shared by the commands that judge by themselves. A mistake in a file is exit code 2 here, because exit code 1 means that
the answer is *denied*.
"""

import contextlib
import functools
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from l7agent import secretfiles
from l7ctl import policyfiles
from l7ctl.errors import ExitCode, Failure
from l7ctl.session import Session
from l7observe.columns import printable
from l7policy import cluster, documents, question
from l7policy.cluster import Cluster, Endpoint
from l7policy.errors import PolicyError, PolicyErrors
from l7policy.hop import Setting
from l7policy.http import secrets_of
from l7policy.labelfilter import identity_labels
from l7policy.labels import DEFAULT_NAMESPACE, NAMESPACE, NAMESPACE_KEY
from l7policy.model import Labels, NamedPort, Secret
from l7policy.policydoc import Policy, Source
from l7policy.question import QuestionError, Side
from l7policy.resolve import Mode
from l7policy.selectors import is_node, selects
from l7policy.verdict import Protocol


@dataclass(frozen=True, slots=True)
class Learnt:
    """An address that the daemon knows by a name."""

    name: str
    address: str
    """As a prefix."""
    open_for: frozenset[str]
    """Names of the workloads for which it counts."""


@dataclass(frozen=True, slots=True)
class Known:
    """Policies, and who there is."""

    policies: tuple[Policy, ...]
    cluster: Cluster
    learnt: tuple[Learnt, ...] = ()
    """What the daemon has learnt."""
    mode: Mode = Mode.DEFAULT
    """Whom the daemon enforces policy for."""
    audit: bool = False
    """Whether the daemon audits whoever says nothing of it."""
    label_rules: tuple[str, ...] = ()
    """Which labels count, beside Cilium's own rules."""
    pin_names: bool = False
    secrets: Mapping[Secret, str] = field(default_factory=dict)
    normalise_paths: bool = False
    """Whether the daemon's proxy writes an ambiguous path anew."""

    @property
    def setting(self) -> Setting:
        """What besides the policies decides."""
        ports: dict[Labels, tuple[NamedPort, ...]] = {}
        for labels, named in self.cluster.ports.items():
            counting = identity_labels(labels, self.label_rules)
            ports[counting] = tuple(dict.fromkeys((*ports.get(counting, ()), *named)))
        return Setting(self.mode, self.audit, ports, self.pin_names, self.secrets.get, self._heeds)

    def side(self, text: str) -> Side:
        """One end of a question. Raises QuestionError."""
        found = question.side(text, self.cluster)
        counting = identity_labels(found.labels, self.label_rules)
        if ignored := found.labels - counting:
            click.echo(f"l7ctl: {printable(text)}: no policy sees {printable(', '.join(sorted(ignored)))}", err=True)
        if "=" in text and NAMESPACE_KEY not in text and (meant := self._meant(counting)):
            asked, told = printable(text), f"{NAMESPACE_KEY}={printable(meant)}"
            message = f"in namespace default no policy selects it; did you mean {asked},{told}?"
            click.echo(f"l7ctl: {asked}: {message}", err=True)
        names = tuple(dict.fromkeys(one.name for one in self.learnt if one.address == found.prefix))
        return replace(found, labels=counting, names=(*found.names, *names))

    def _meant(self, own: Labels) -> str:
        """The one other namespace in which policies select a workload that no policy selects in the one assumed."""
        subjects = {policy.subject for policy in self.policies}
        if any(selects(subject, own) for subject in subjects):
            return ""
        assumed = f"{NAMESPACE}={DEFAULT_NAMESPACE}"
        spaces = {value for subject in subjects for one in subject if one.key == NAMESPACE for value in one.values}
        found = {
            space
            for space in spaces
            for subject in subjects
            if selects(subject, own - {assumed} | {f"{NAMESPACE}={space}"})
        }
        return found.pop() if len(found) == 1 else ""

    def _heeds(self, own: Labels, prefix: str, name: str) -> bool:
        facts = [one for one in self.learnt if (one.address, one.name) == (prefix, name)]
        here = [one for one in self.cluster.endpoints.values() if not is_node(one.labels)]
        alike = {one.name for one in here if _told(identity_labels(one.labels, self.label_rules)) == _told(own)}
        # Of labels that no workload here has nothing is known: what counts for anybody counts for them.
        return not facts or not alike or any(alike & one.open_for for one in facts)


def _told(labels: Labels) -> Labels:
    """Without those that a question adds by itself: of the namespace and the cluster."""
    return frozenset(label for label in labels if not label.startswith("k8s:io.cilium.k8s."))


@dataclass(frozen=True, slots=True)
class Assumed:
    """What besides the policies decides, where no daemon says it."""

    mode: Mode | None = None
    audit: bool = False
    secrets: Path | None = None


Command = Callable[..., None]


def assumptions(command: Command) -> Command:
    """The options that make an `Assumed`, the command's parameter `assumed`."""

    @click.option(
        "--enforcement",
        type=click.Choice([mode.value for mode in Mode]),
        help="With files: the daemon's mode.  [default: default]",
    )
    @click.option("--audit", "audit", is_flag=True, help="With files: as if policy_audit_mode were on.")
    @click.option(
        "--secrets",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="With files: contents of secrets that rules refer to, as NAMESPACE/NAME.",
    )
    @functools.wraps(command)
    def with_assumptions(*, enforcement: str | None, audit: bool, secrets: Path | None, **others: Any) -> None:
        mode = None if enforcement is None else Mode(enforcement)
        command(assumed=Assumed(mode, audit, secrets), **others)

    return with_assumptions


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


def known(session: Session, files: Sequence[str], clusters: Sequence[str], assumed: Assumed) -> Known:
    """Policies and cluster from files; what is not given, from the daemon. Raises PolicyErrors."""
    given = sources(clusters)
    offline = read_cluster(given)
    if files:
        policies = documents.load(sources(files), given)
        return offline_known(policies, offline, assumed)
    if assumed != Assumed():
        raise click.UsageError("--enforcement, --audit and --secrets go with files: the daemon has its own")
    answer = session.client.get("/rules/sources")
    policies = documents.load([Source(one["path"], one["text"]) for one in answer["sources"]], given)
    status = session.client.get("/status")
    endpoints = {one["name"]: _endpoint(one) for one in session.client.get("/endpoints")}
    for one in status["peers"]:
        before = endpoints.get(one["name"])
        addresses = (*(before.addresses if before else ()), *one["addresses"])
        endpoints[one["name"]] = Endpoint(one["name"], frozenset(one["labels"]), addresses)
    learnt = tuple(
        Learnt(one["name"], str(ipaddress.ip_network(one["address"])), frozenset(one["open_for"]))
        for one in session.client.get("/fqdn/cache")
    )
    return Known(
        policies,
        replace(offline, endpoints={**offline.endpoints, **endpoints}),
        learnt,
        Mode(status["enforcement"]),
        status["policy_audit_mode"],
        tuple(status["label_rules"]),
        status["pin_names"],
        read_secrets(policies, Path(status["secrets"])),
        status["ambiguous_paths"] == "normalise",
    )


def offline_known(policies: tuple[Policy, ...], cluster: Cluster, assumed: Assumed) -> Known:
    """What is known without a daemon."""
    secrets = {} if assumed.secrets is None else read_secrets(policies, assumed.secrets)
    return Known(policies, cluster, (), assumed.mode or Mode.DEFAULT, assumed.audit, secrets=secrets)


def read_secrets(policies: Sequence[Policy], folder: Path) -> dict[Secret, str]:
    """Contents of the secrets that the policies refer to. Those that cannot be read are told."""
    wanted = {secret for policy in policies for rule in policy.rules for secret in secrets_of(rule.http or ())}
    found, problems = secretfiles.read(folder, wanted)
    for problem in problems:
        click.echo(f"l7ctl: {printable(problem)}; no header agrees with it here", err=True)
    return found


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
