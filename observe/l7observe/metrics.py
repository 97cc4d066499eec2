# SPDX-License-Identifier: Apache-2.0
"""Every metric of l7gate, in one table; and how samples of them are written for Prometheus.

The table drives the exposition, `l7ctl metrics list` and the table in docs/reference/metrics.md (``python -m
l7observe.metrics``). No label has a value that a workload or the network can choose: the number of series is bounded by
the configuration. Failure verdict: a sample that the table does not know, or with other labels, is a bug and raises
ValueError.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
PREFIX: Final = "l7gate_"

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name without the prefix, its kind, what it tells, and its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. Of a histogram: a bucket's, the sum's or the count's."""

    family: str
    labels: tuple[str, ...]
    value: float
    suffix: str = ""
    """``_bucket``, ``_sum`` or ``_count``, of a histogram."""
    le: str = ""
    """Upper bound of a bucket."""


FAMILIES: Final = {
    family.name: family
    for family in (
        Family("version", "gauge", "1, with the agent's version", ("version",)),
        Family("forward_count_total", "counter", "Packets that passed, audited ones among them"),
        Family("forward_bytes_total", "counter", "Bytes of packets that passed"),
        Family("drop_count_total", "counter", "Packets that were dropped", ("reason",)),
        Family("drop_bytes_total", "counter", "Bytes of packets that were dropped", ("reason",)),
        Family("redirect_count_total", "counter", "Packets that went to a proxy, of those that passed"),
        Family("audit_count_total", "counter", "Packets that only audit mode let pass, as far as they were reported"),
        Family("endpoint_state", "gauge", "Endpoints by state: ready, waiting or error", ("state",)),
        Family("endpoint_audited", "gauge", "Endpoints in audit mode"),
        Family("policy", "gauge", "Policies in force"),
        Family("policy_revision", "gauge", "Revision in force"),
        Family("policy_change_total", "counter", "Reloads and rollbacks, by outcome: success or failure", ("outcome",)),
        Family("policy_implementation_delay", "histogram", "Seconds of a reload or rollback that succeeded"),
        Family("policy_load_error", "gauge", "1 while the policy files are not what is in force, because of a mistake"),
        Family("identity", "gauge", "Identities of this node, by kind", ("type",)),
        Family("bpf_map_entries", "gauge", "Entries of a kernel table, counted at most 5 seconds ago", ("map_name",)),
        Family("bpf_map_capacity", "gauge", "Entries that a kernel table can hold", ("map_name",)),
        Family("bpf_map_pressure", "gauge", "Share of a kernel table that is in use, 0 to 1", ("map_name",)),
        Family(
            "bpf_map_evicted_total",
            "counter",
            "Rows that a full kernel table pushed out, counted with the entries, since the agent started",
            ("map_name",),
        ),
        Family("conntrack_created_total", "counter", "Flows that the kernel began to remember"),
        Family("conntrack_expired_total", "counter", "Flows that were over and removed, since the agent started"),
        Family("lost_events_total", "counter", "Events nobody will hear of: drop, passed or proxy", ("source",)),
        Family("audit_log_records_total", "counter", "Records written since the agent started"),
        Family("audit_log_lost_total", "counter", "Records that could not be written, since the agent started"),
        Family("process_up", "gauge", "1 while a process judges by the revision in force", ("process",)),
        Family("process_restarts_total", "counter", "Times a process was started again by this agent", ("process",)),
        Family("process_resident_memory_bytes", "gauge", "Memory of a process", ("process",)),
        Family("http_requests_total", "counter", "HTTP requests", ("process", "verdict", "status")),
        Family("http_request_duration_seconds", "histogram", "From request head to answer head", ("process",)),
        Family("http_connections", "gauge", "Open connections of an HTTP worker", ("process",)),
        Family("http_refused_connections_total", "counter", "Connections over a limit or of nobody", ("process",)),
        Family("tls_connections_total", "counter", "Connections judged by server name", ("process", "verdict")),
        Family("dns_queries_total", "counter", "DNS queries that came in"),
        Family("dns_responses_total", "counter", "Answers to queries, by outcome and code", ("outcome", "rcode")),
        Family("dns_limited_total", "counter", "Queries over the limit of their workload"),
        Family("dns_inflight", "gauge", "Queries under way"),
        Family("dns_response_duration_seconds", "histogram", "From query to answer, of those forwarded"),
        Family("dns_learn_duration_seconds", "histogram", "Kernel's part of that, when it changed"),
        Family("fqdn_active_names", "gauge", "Names in the cache"),
        Family("fqdn_active_ips", "gauge", "Addresses in the cache"),
        Family("fqdn_identities", "gauge", "Identities made for names"),
        Family("fqdn_evicted_total", "counter", "Forgotten because the cache was full: name, address, kept", ("what",)),
        Family("fqdn_kernel_errors_total", "counter", "Learnt addresses that the kernel did not take"),
    )
}


def histogram(
    family: str, labels: tuple[str, ...], cumulative: Sequence[Sequence[float]], total: float
) -> Iterator[Sample]:
    """The samples of one histogram, from `l7observe.histogram.Histogram.cumulative`, whose last bucket has no bound."""
    for bound, count in cumulative[:-1]:
        yield Sample(family, labels, count, "_bucket", f"{bound:g}")
    count = cumulative[-1][1] if cumulative else 0
    yield Sample(family, labels, count, "_bucket", "+Inf")
    yield Sample(family, labels, total, "_sum")
    yield Sample(family, labels, count, "_count")


def pairs(sample: Sample) -> tuple[tuple[str, str], ...]:
    """The sample's labels with their names. Raises ValueError."""
    family = FAMILIES.get(sample.family)
    if family is None or len(family.labels) != len(sample.labels):
        raise ValueError(f"no such metric: {sample.family} {sample.labels}")
    found = tuple(zip(family.labels, sample.labels, strict=True))
    return (*found, ("le", sample.le)) if sample.le else found


def number(value: float) -> str:
    """As Prometheus reads it, whole numbers without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def render(samples: Iterable[Sample]) -> str:
    """The text for Prometheus: each family once, in the table's order."""
    grouped: dict[str, list[str]] = {}
    for sample in samples:
        named = ",".join(f'{name}="{_escaped(text)}"' for name, text in pairs(sample))
        name = f"{PREFIX}{sample.family}{sample.suffix}"
        line = f"{name}{{{named}}}" if named else name
        grouped.setdefault(sample.family, []).append(f"{line} {number(sample.value)}")
    lines: list[str] = []
    for family in FAMILIES.values():
        if family.name in grouped:
            lines.append(f"# HELP {PREFIX}{family.name} {family.help}")
            lines.append(f"# TYPE {PREFIX}{family.name} {family.kind}")
            lines += grouped[family.name]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def document() -> str:
    """The table as Markdown."""
    rows = ["| metric | kind | labels | tells |", "|---|---|---|---|"]
    for family in FAMILIES.values():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append(f"| `{PREFIX}{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(document(), end="")
