# SPDX-License-Identifier: Apache-2.0
import re

import pytest

from l7policy import verdict
from l7policy.verdict import Reason, Verdict


def test_a_reason_fits_the_one_byte_the_kernel_has_for_it() -> None:
    assert all(0 <= reason < 256 for reason in Reason)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_has_a_sentence_of_its_own(reason: Reason) -> None:
    assert reason.text
    assert [other for other in Reason if other.text == reason.text] == [reason]


@pytest.mark.parametrize(
    ("reason", "number"),
    [(Reason.INVALID_SOURCE_IP, 132), (Reason.POLICY_DENIED, 133), (Reason.POLICY_DENY, 181)],
)
def test_reasons_that_cilium_has_keep_its_numbers(reason: Reason, number: int) -> None:
    assert reason == number
    assert Reason(number) is reason


def test_verdicts_keep_the_numbers_of_hubble() -> None:
    assert [(member.name, member.value) for member in Verdict] == [
        ("FORWARDED", 1),
        ("DROPPED", 2),
        ("ERROR", 3),
        ("AUDIT", 4),
        ("REDIRECTED", 5),
    ]


def test_the_header_defines_every_member_once() -> None:
    defined = re.findall(r"^#define (\w+) (\d+)$", verdict.c_header(), re.MULTILINE)
    assert len(defined) == len(dict(defined))
    for reason in Reason:
        assert (f"REASON_{reason.name}", str(reason.value)) in defined
