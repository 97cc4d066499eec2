# SPDX-License-Identifier: Apache-2.0
"""What keeps this node from enforcing as it was told to, in the kernel and the agent; looked for when somebody asks.

It decides nothing and mends nothing. Failure verdict: what cannot be asked counts as missing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from l7agent.agent import Agent
from l7agent.datapath import Datapath
from l7agent.endpoints import Endpoint
from l7agent.evictions import EVICTING
from l7agent.fills import Fill
from l7bpf.errors import DatapathError, size_key
from l7policy.ids import EndpointId
from l7policy.verdict import Direction

FULL: Final = 0.9
"""From this share on a table that does not evict is about to refuse rules, names or workloads."""


@dataclass(frozen=True, slots=True)
class Programs:
    """What the kernel has attached, by program."""

    endpoints: Mapping[EndpointId, Mapping[str, bool]]
    node: Mapping[str, Mapping[str, bool]]
    """By uplink; under an empty name the socket lookup."""
    error: str = ""
    """Why the kernel could not be asked."""


def look(datapath: Datapath, endpoints: Iterable[Endpoint]) -> Programs:
    """Asks the kernel. Blocking, for a thread: some system calls for each endpoint."""
    try:
        return Programs({one.id: datapath.programs_of(one) for one in endpoints}, datapath.programs_of_node())
    except DatapathError as error:
        return Programs({}, {}, str(error))


def problems(agent: Agent, tables: Iterable[Fill], programs: Programs) -> Iterator[str]:
    """Sentences, none if all is well."""
    if programs.error:
        yield f"the kernel could not be asked what is attached: {programs.error}"
    for where, found in programs.node.items():
        if missing := _missing(found):
            yield f"{f'uplink {where}' if where else 'the way to the proxies'}: not attached: {missing}"
    for endpoint in agent.endpoints:
        if missing := _missing(programs.endpoints.get(endpoint.id, {})):
            yield f"endpoint {endpoint.declared.name}: not attached: {missing}"
        if endpoint.state == "error":
            yield f"endpoint {endpoint.declared.name}: {endpoint.message}"
        if endpoint.declared.cgroup and _late(agent, endpoint):
            yield (
                f"endpoint {endpoint.declared.name}: ingress rules for requests hold for no process of the node: what "
                "they are about is dropped (REDIRECT_IMPOSSIBLE)"
            )
    for process in agent.supervisor.processes:
        if process.state != "ready":
            yield f"{process.slot.name} is {process.state}" + (f": {process.problem}" if process.problem else "")
    for name, entries, capacity in tables:
        if name not in EVICTING and entries >= FULL * capacity:
            yield f"kernel table {name} holds {entries} of {capacity} entries (config key maps.{size_key(name)})"
    if agent.policy_load_error:
        yield "the policy files were not loaded"
    if agent.endpoints_load_error:
        yield "the declared endpoints were not loaded"
    if agent.audit.error:
        yield "the audit log cannot be written"


def _late(agent: Agent, endpoint: Endpoint) -> bool:
    """Whether ingress has rules that need a proxy: what comes has reached the process's socket already."""
    policy = agent.compiled.endpoint_policies.get(endpoint.id) if agent.compiled else None
    return policy is not None and any(rule.inspects and rule.direction == Direction.INGRESS for rule in policy.rules)


def _missing(programs: Mapping[str, bool]) -> str:
    return ", ".join(name for name, there in programs.items() if not there)
