# SPDX-License-Identifier: Apache-2.0
"""What-if: which flows two sets of policies would judge differently. Both are asked by `l7policy.hop`.

May not decide. Failure verdict: a flow that nobody asked about is not in the list; `l7policy.probes` says which are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from l7policy.explain import Explanation, explain
from l7policy.hop import DEFAULT, Setting
from l7policy.policydoc import Policy
from l7policy.question import Question


@dataclass(frozen=True, slots=True)
class Difference:
    """One flow, before and after."""

    question: Question
    before: Explanation
    after: Explanation
    count: int = 1
    """How often it was asked about."""


def differences(
    before: Sequence[Policy], after: Sequence[Policy], questions: Iterable[Question], setting: Setting = DEFAULT
) -> tuple[Difference, ...]:
    """The questions whose verdict or reason changes, in their order; equal ones are told once."""
    counts: dict[Question, int] = {}
    for question in questions:
        counts[question] = counts.get(question, 0) + 1
    found: list[Difference] = []
    for question, count in counts.items():
        old = explain(before, question, setting, propose=False)
        new = explain(after, question, setting, propose=False)
        if (old.verdict, old.reason) != (new.verdict, new.reason):
            found.append(Difference(question, old, new, count))
    return tuple(found)
