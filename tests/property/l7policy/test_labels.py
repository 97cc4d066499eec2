# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import labels
from l7policy.labels import LabelError

LABELISH = st.text("ab.-_/:=0 Aé", max_size=20) | st.text(max_size=20)


@settings(max_examples=200)
@given(LABELISH)
def test_a_label_is_canonical_or_refused(text: str) -> None:
    try:
        canonical = labels.workload_label(text)
    except LabelError:
        return
    assert labels.workload_label(canonical) == canonical
    key, value = labels.split(canonical)
    assert key.partition(":")[0] in labels.WORKLOAD_SOURCES
    assert f"{key}={value}" == canonical
    assert labels.selector_key(key) == key


@settings(max_examples=200)
@given(LABELISH)
def test_a_key_of_a_selector_is_canonical_or_refused(text: str) -> None:
    try:
        canonical = labels.selector_key(text)
    except LabelError:
        return
    assert labels.selector_key(canonical) == canonical


@settings(max_examples=50)
@given(st.sampled_from(["reserved", "cidr", "fqdn", "any", "unspec"]), st.sampled_from([":", "."]), LABELISH)
def test_no_workload_can_claim_what_l7gate_gives_out(source: str, mark: str, rest: str) -> None:
    if mark == "." and source != "reserved":
        return
    with pytest.raises(LabelError):
        labels.workload_label(f"{source}{mark}{rest}")
