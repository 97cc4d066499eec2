# SPDX-License-Identifier: Apache-2.0
"""Policy tests: questions with the answers that are expected, in YAML.

A file is a list of cases, or a mapping with `cases` and, relative to the file, the `policies` and the `cluster` that
they are about. A case has from, to, port and expect, and may have name, http, host, headers, dns, sni and because.

May not read files. Failure verdict: `PolicyErrors`; then no case has been judged.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from l7policy import question, yamltree
from l7policy.errors import PolicyError, PolicyErrors, did_you_mean
from l7policy.explain import Explanation, explain
from l7policy.hop import DEFAULT, Setting
from l7policy.policydoc import Policy, Source
from l7policy.question import HttpRequest, Question, QuestionError, Side
from l7policy.reader import Reader, fields
from l7policy.verdict import Reason, Verdict
from l7policy.yamltree import Kind, Node

_FILE: Final = fields("cases policies cluster", required="cases")
_CASE: Final = fields(
    "because dns expect from headers host http name port sni to",
    required="expect from port to",
)
_RESPONSES: Final = ("400", "403", "REFUSED")
_EXPECTED: Final = (
    "allow",
    "deny",
    *(verdict.name for verdict in Verdict if verdict is not Verdict.ERROR),
    *_RESPONSES,
    *(reason.name for reason in Reason if reason),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One question, as it was written, and the answer that is expected."""

    place: PolicyError
    """Where it stands; without a message."""
    name: str
    source: str
    destination: str
    port: str
    expect: str
    because: str = ""
    http: str | None = None
    host: str = ""
    headers: tuple[str, ...] = ()
    dns: str | None = None
    sni: str | None = None

    def question(self, side: Callable[[str], Side], prepare: Callable[[HttpRequest], HttpRequest]) -> Question:
        """The question. Raises QuestionError."""
        request = None if self.http is None else prepare(question.request(self.http, self.host, self.headers))
        return question.ask(
            side(self.source), side(self.destination), self.port, http=request, dns=self.dns, sni=self.sni
        )


@dataclass(frozen=True, slots=True)
class CaseFile:
    """Cases, and what they are about."""

    path: str
    cases: tuple[Case, ...]
    policies: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one case went."""

    case: Case
    answer: Explanation
    got: str
    """The answer in the words of what was expected."""
    problem: str
    """Empty: as expected."""


def load(source: Source) -> CaseFile:
    """The cases of one file. Raises PolicyErrors."""
    reader = Reader()
    documents = yamltree.parse(source.path, source.text)
    cases: list[Case] = []
    paths: dict[str, tuple[str, ...]] = {"policies": (), "cluster": ()}
    for document in documents:
        elements = document.items
        if document.kind is Kind.MAPPING:
            found = reader.mapping(document, "a file of cases", _FILE)
            elements = reader.sequence(found["cases"], "cases") if "cases" in found else ()
            for name, before in paths.items():
                if name in found:
                    paths[name] = (*before, *_texts(reader, found[name], name))
        elif document.kind is not Kind.SEQUENCE:
            reader.fail(document, f"a file of cases is a list, or a mapping with cases, not {document.kind}")
        cases.extend(case for element in elements if (case := _case(reader, element)) is not None)
    if not cases and not reader.errors:
        reader.errors.append(PolicyError(source.path, 0, 0, "there are no cases in it"))
    if reader.errors:
        raise PolicyErrors(reader.errors)
    return CaseFile(source.path, tuple(cases), paths["policies"], paths["cluster"])


def _case(reader: Reader, node: Node) -> Case | None:
    found = reader.mapping(node, "a case", _CASE)
    if not _CASE.required <= found.keys():
        return None
    texts = {name: _scalar(reader, found[name], name) for name in found if name != "headers"}
    headers = _texts(reader, found["headers"], "headers") if "headers" in found else ()
    expect = texts["expect"]
    if expect not in _EXPECTED:
        hint = did_you_mean(expect, _EXPECTED) or "allow, deny, a verdict, a reason or a response"
        reader.fail(found["expect"], f"{expect[:80]!r} is nothing to expect", hint)
    if "http" not in found and ("host" in found or "headers" in found):
        reader.fail(node, "host and headers belong to a request", "add http: GET /")
    return Case(
        place=node.error(""),
        name=texts.get("name", ""),
        source=texts["from"],
        destination=texts["to"],
        port=texts["port"],
        expect=expect,
        because=texts.get("because", ""),
        http=texts.get("http"),
        host=texts.get("host", ""),
        headers=headers,
        dns=texts.get("dns"),
        sni=texts.get("sni"),
    )


def _scalar(reader: Reader, node: Node, what: str) -> str:
    # A port, and a response like 403, read as numbers.
    if node.kind is Kind.INTEGER and what in {"port", "expect"}:
        return node.text
    return reader.text(node, what)


def _texts(reader: Reader, node: Node, what: str) -> tuple[str, ...]:
    if node.kind is Kind.TEXT:
        return (node.text,)
    return tuple(reader.text(element, what) for element in reader.sequence(node, what))


def run(
    cases: Iterable[Case],
    policies: Sequence[Policy],
    side: Callable[[str], Side],
    prepare: Callable[[HttpRequest], HttpRequest],
    setting: Setting = DEFAULT,
) -> tuple[Outcome, ...]:
    """Judges them all. `side` reads one end, `prepare` says what the proxy would refuse. Raises PolicyErrors."""
    errors: list[PolicyError] = []
    outcomes: list[Outcome] = []
    for case in cases:
        try:
            asked = case.question(side, prepare)
        except QuestionError as error:
            errors.append(PolicyError(case.place.path, case.place.line, case.place.column, str(error)))
            continue
        outcomes.append(_outcome(case, explain(policies, asked, setting)))
    if errors:
        raise PolicyErrors(errors)
    return tuple(outcomes)


def _outcome(case: Case, answer: Explanation) -> Outcome:
    got = _got(case.expect, answer)
    if got != case.expect:
        why = "" if answer.allowed else f" ({answer.reason})"
        return Outcome(case, answer, got, f"expected {case.expect}, got {got}{why}")
    if case.because and case.because not in (deciding := _deciding(answer)):
        by = ", ".join(sorted(deciding)) or "no policy"
        return Outcome(case, answer, got, f"{got}, but not because of {case.because}: {by}")
    return Outcome(case, answer, got, "")


def _got(expect: str, answer: Explanation) -> str:
    if expect in Verdict.__members__:
        return answer.verdict
    if expect in Reason.__members__:
        return answer.reason if answer.reason != Reason.NONE.name else "allow"
    if expect in _RESPONSES:
        return str(answer.l7.response) if answer.l7.response is not None else "allow" if answer.allowed else "deny"
    return "allow" if answer.allowed else "deny"


def _deciding(answer: Explanation) -> set[str]:
    """Policies that decided: by their rules, or by default deny. Of a deny, those of the sides that deny."""
    sides = [side for side in (answer.egress, answer.ingress) if answer.allowed or not side.allowed]
    found: set[str] = set()
    for side in sides:
        found.update(matched.policy for matched in side.matched)
        found.update(f"{matched.policy} {matched.path}" for matched in side.matched)
        if not side.matched:
            found.update(side.selected_by)
    return found
