# SPDX-License-Identifier: Apache-2.0
"""The table of metrics, the text for Prometheus, and the page of the docs are one."""

import re
from pathlib import Path

import pytest

from l7observe.histogram import Histogram
from l7observe.metrics import FAMILIES, PREFIX, Sample, document, histogram, number, render

PAGE = Path(__file__).parents[3] / "docs/reference/metrics.md"


def test_the_reference_page_holds_the_table_as_it_is() -> None:
    assert document() in PAGE.read_text("utf-8")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_family_is_named_as_prometheus_wants_it(family: object) -> None:
    one = FAMILIES[getattr(family, "name", "")]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", one.name)
    assert (one.kind == "counter") == one.name.endswith("_total")
    assert not one.name.endswith(("_bucket", "_sum", "_count"))
    assert "le" not in one.labels


def test_each_family_is_written_once_in_the_order_of_the_table() -> None:
    text = render(
        [
            Sample("process_up", ("dns-0",), 1),
            Sample("drop_count_total", ("POLICY_DENIED",), 3),
            Sample("process_up", ('a"\\\n',), False),
            Sample("bpf_map_pressure", ("policy",), 0.25),
        ]
    )
    assert text == (
        "# HELP l7gate_drop_count_total Packets that were dropped\n"
        "# TYPE l7gate_drop_count_total counter\n"
        'l7gate_drop_count_total{reason="POLICY_DENIED"} 3\n'
        "# HELP l7gate_bpf_map_pressure Share of a kernel table that is in use, 0 to 1\n"
        "# TYPE l7gate_bpf_map_pressure gauge\n"
        'l7gate_bpf_map_pressure{map_name="policy"} 0.25\n'
        "# HELP l7gate_process_up 1 while a process judges by the revision in force\n"
        "# TYPE l7gate_process_up gauge\n"
        'l7gate_process_up{process="dns-0"} 1\n'
        'l7gate_process_up{process="a\\"\\\\\\n"} 0\n'
    )


def test_a_histogram_ends_without_a_bound_and_counts_all() -> None:
    seconds = Histogram()
    for value in (0.001, 0.002, 1e9):
        seconds.observe(value)
    lines = render(histogram("dns_learn_duration_seconds", (), seconds.cumulative(), seconds.total)).splitlines()[2:]
    name = f"{PREFIX}dns_learn_duration_seconds"
    assert lines[0] == f'{name}_bucket{{le="2.5e-05"}} 0'
    assert lines[-3:] == [f'{name}_bucket{{le="+Inf"}} 3', f"{name}_sum {1e9 + 0.003!r}", f"{name}_count 3"]
    counts = [int(line.split()[-1]) for line in lines if "_bucket" in line]
    assert counts == sorted(counts)


@pytest.mark.parametrize("sample", [Sample("unheard_of_total", (), 1), Sample("drop_count_total", (), 1)])
def test_what_the_table_does_not_know_is_a_bug(sample: Sample) -> None:
    with pytest.raises(ValueError, match="no such metric"):
        render([sample])


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (3.0, "3"), (0.25, "0.25"), (True, "1"), (1e-05, "1e-05")])
def test_numbers_are_written_in_full(value: float, text: str) -> None:
    assert number(value) == text
