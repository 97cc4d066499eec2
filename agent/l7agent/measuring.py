# SPDX-License-Identifier: Apache-2.0
"""Gathers what there is to measure on this node, whenever somebody asks: from the kernel, the processes and the agent.

Nothing is kept for it but counters that exist anyway. A process that does not answer in time has no samples of its own
but `process_up` 0 or 1, and holds up nobody else's.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from l7agent import dataplane, views
from l7agent.agent import Agent
from l7agent.dataprocess import DataProcess
from l7agent.evictions import EVICTING
from l7bpf.layouts import METRIC_AUDITED, METRIC_CONNTRACK_MADE, METRIC_FORWARDED, METRIC_REDIRECTED, Metric
from l7observe.metrics import Sample, histogram
from l7policy.verdict import Reason

ANSWER_SECONDS: Final = 2.0
"""What a process may take; Prometheus waits for ten seconds."""
_STATES: Final = ("ready", "waiting", "error")
_TOLD: Final = {"http": {"requests", "refused"}, "dns": {"answers", "kept_evicted"}}
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


async def samples(agent: Agent) -> list[Sample]:
    """Everything, now. Raises OSError if the kernel's tables cannot be read."""
    fills = await agent.fills.get()
    processes = agent.supervisor.processes
    answers = await asyncio.gather(*(_ask(process) for process in processes))
    found = [*_kernel(agent), *_policy(agent), *_own(agent)]
    for name, entries, capacity in fills.tables:
        found += [
            Sample("bpf_map_entries", (name,), entries),
            Sample("bpf_map_capacity", (name,), capacity),
            Sample("bpf_map_pressure", (name,), round(entries / capacity, 6)),
        ]
    for process, answer in zip(processes, answers, strict=True):
        found += _process(process)
        # One of the version before, adopted, may tell less.
        if answer is not None and answer.keys() >= _TOLD[process.slot.kind]:
            found += _http(process.slot.name, answer) if process.slot.kind == "http" else _dns(answer)
    return found


async def _ask(process: DataProcess) -> Any:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await process.ask("status")
    except (ConnectionError, TimeoutError):
        return None


def _kernel(agent: Agent) -> Iterator[Sample]:
    none = Metric(0, 0)
    counters = agent.kernel.counters()
    forwarded = counters.get(METRIC_FORWARDED, none)
    yield Sample("forward_count_total", (), forwarded.packets)
    yield Sample("forward_bytes_total", (), forwarded.octets)
    for reason in Reason:
        if reason != Reason.NONE and reason in counters:
            yield Sample("drop_count_total", (reason.name,), counters[reason].packets)
            yield Sample("drop_bytes_total", (reason.name,), counters[reason].octets)
    yield Sample("redirect_count_total", (), counters.get(METRIC_REDIRECTED, none).packets)
    yield Sample("audit_count_total", (), counters.get(METRIC_AUDITED, none).packets)
    yield Sample("conntrack_created_total", (), counters.get(METRIC_CONNTRACK_MADE, none).packets)
    yield Sample("conntrack_expired_total", (), agent.kernel.evictions.expired["conntrack"])
    for name in sorted(EVICTING):
        yield Sample("bpf_map_evicted_total", (name,), agent.kernel.evictions.evicted[name])
    yield Sample("lost_events_total", ("drop",), agent.kernel.events_lost())
    yield Sample("lost_events_total", ("passed",), agent.kernel.passed_lost())
    yield Sample("lost_events_total", ("proxy",), agent.observation.proxies_lost)


def _policy(agent: Agent) -> Iterator[Sample]:
    states = Counter(endpoint.state for endpoint in agent.endpoints)
    for state in _STATES:
        yield Sample("endpoint_state", (state,), states[state])
    audited = sum(endpoint.audited(agent.config.policy_audit_mode) for endpoint in agent.endpoints)
    yield Sample("endpoint_audited", (), audited)
    yield Sample("policy", (), len(agent.compiled.policies) if agent.compiled else 0)
    yield Sample("policy_revision", (), agent.snapshot.revision if agent.snapshot else 0)
    yield Sample("policy_change_total", ("success",), agent.changes_made)
    yield Sample("policy_change_total", ("failure",), agent.changes_refused)
    seconds = agent.change_seconds
    yield from histogram("policy_implementation_delay", (), seconds.cumulative(), seconds.total)
    yield Sample("policy_load_error", (), int(bool(agent.policy_load_error)))
    kinds = Counter(one["kind"] for one in views.identities(agent))
    yield from (Sample("identity", (kind,), count) for kind, count in kinds.items())


def _own(agent: Agent) -> Iterator[Sample]:
    yield Sample("version", (dataplane.version(),), 1)
    yield Sample("audit_log_records_total", (), agent.audit.written)
    yield Sample("audit_log_lost_total", (), agent.audit.lost)
    yield Sample("process_up", ("agent",), 1)
    yield Sample("process_resident_memory_bytes", ("agent",), resident(os.getpid()))


def _process(process: DataProcess) -> Iterator[Sample]:
    name = process.slot.name
    yield Sample("process_up", (name,), int(process.state == "ready"))
    yield Sample("process_restarts_total", (name,), process.restarts)
    if process.pid and (size := resident(process.pid)):
        yield Sample("process_resident_memory_bytes", (name,), size)


def _http(name: str, answer: dict[str, Any]) -> Iterator[Sample]:
    for verdict, status, count in answer["requests"]:
        yield Sample("http_requests_total", (name, verdict, status), count)
    yield from histogram(
        "http_request_duration_seconds", (name,), answer["request_seconds"], answer["request_seconds_sum"]
    )
    yield Sample("http_connections", (name,), answer["connections_open"])
    yield Sample("http_refused_connections_total", (name,), answer["refused"])
    for verdict, count in answer["connections"]:
        yield Sample("tls_connections_total", (name, verdict), count)


def _dns(answer: dict[str, Any]) -> Iterator[Sample]:
    yield Sample("fqdn_active_names", (), answer["names"])
    yield Sample("fqdn_active_ips", (), answer["addresses"])
    yield Sample("fqdn_identities", (), answer["identities"])
    for what, key in (("name", "evicted_names"), ("address", "evicted_addresses"), ("kept", "kept_evicted")):
        yield Sample("fqdn_evicted_total", (what,), answer[key])
    yield Sample("fqdn_kernel_errors_total", (), answer["kernel_errors"])
    yield Sample("dns_queries_total", (), answer["queries"])
    for outcome, rcode, count in answer["answers"]:
        yield Sample("dns_responses_total", (outcome, rcode), count)
    yield Sample("dns_limited_total", (), answer["limited"])
    yield Sample("dns_inflight", (), answer["inflight"])
    for family, key in (("dns_response_duration_seconds", "answer"), ("dns_learn_duration_seconds", "learn")):
        yield from histogram(family, (), answer[f"{key}_seconds"], answer[f"{key}_seconds_sum"])


def resident(pid: int) -> int:
    """Bytes of memory that the process has, 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0
