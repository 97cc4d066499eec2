# SPDX-License-Identifier: Apache-2.0
"""Outcomes of policy tests as JUnit XML, which CI systems show as a list of tests."""

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from l7policy.cases import Outcome

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(suites: Sequence[tuple[str, Sequence[Outcome]]]) -> bytes:
    """One suite for each file: its name and outcomes."""
    root = ElementTree.Element("testsuites")
    for name, outcomes in suites:
        failed = sum(bool(outcome.problem) for outcome in outcomes)
        attributes = {"name": name, "tests": str(len(outcomes)), "failures": str(failed), "errors": "0"}
        suite = ElementTree.SubElement(root, "testsuite", {key: _text(value) for key, value in attributes.items()})
        for outcome in outcomes:
            case = outcome.case
            place = {"file": case.place.path, "line": str(case.place.line)}
            element = ElementTree.SubElement(
                suite,
                "testcase",
                {"classname": _text(name), "name": _text(title(outcome)), **{k: _text(v) for k, v in place.items()}},
            )
            if outcome.problem:
                failure = ElementTree.SubElement(element, "failure", {"message": _text(outcome.problem)})
                failure.text = _text(outcome.answer.nearest or "") or None
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def title(outcome: Outcome) -> str:
    """What the case is called, or what it asks."""
    case = outcome.case
    if case.name:
        return case.name
    carried = case.http or case.dns or case.sni or ""
    return f"{case.source} -> {case.destination} {case.port} {carried}".rstrip()


def _text(value: str) -> str:
    return _NOT_XML.sub("?", value)
