# SPDX-License-Identifier: Apache-2.0
"""What the API shows, as plain values. Shapes: docs/reference/api.md."""

import os
import socket
import time
from collections.abc import Collection
from typing import Any

from l7agent import dataplane, health
from l7agent.agent import Agent
from l7agent.endpoints import Endpoint, port_text
from l7agent.fills import Count
from l7agent.reload import Change
from l7bpf.layouts import LAYOUT, METRIC_AUDITED
from l7policy import ids
from l7policy.changes import Changes, EndpointChange
from l7policy.errors import PolicyErrors
from l7policy.policydoc import Policy
from l7policy.selectors import REMOTE_NODE_LABEL
from l7policy.verdict import Reason

View = dict[str, Any]


def problems(errors: PolicyErrors) -> list[View]:
    """Each error and where it is."""
    return [
        {"path": e.path, "line": e.line, "column": e.column, "message": e.message, "hint": e.hint}
        for e in errors.errors
    ]


def status(agent: Agent, fills: Count, programs: health.Programs) -> View:
    """The whole picture."""
    compiled = agent.compiled
    counters = agent.kernel.counters()
    return {
        "version": dataplane.version(),
        "pid": os.getpid(),
        "uptime_seconds": round(time.time() - agent.started, 3),
        "revision": agent.snapshot.revision if agent.snapshot else 0,
        "enforcement": agent.config.enforcement,
        "policy_audit_mode": agent.config.policy_audit_mode,
        "label_rules": list(agent.config.labels),
        "pin_names": agent.config.http.pin_names,
        "ambiguous_paths": agent.config.http.ambiguous_paths,
        "secrets": agent.config.secrets,
        "peers": _peers(agent),
        "audited_endpoints": [one.declared.name for one in agent.endpoints if _audited(agent, one)],
        "policies": len(compiled.policies) if compiled else 0,
        "endpoints": len(agent.endpoints),
        "identities": len(compiled.identities) if compiled else 0,
        "node": {"hostname": socket.gethostname(), "kernel": os.uname().release},
        "policy_load_error": agent.policy_load_error,
        "endpoints_load_error": agent.endpoints_load_error,
        "processes": [
            {
                "name": process.slot.name,
                "kind": process.slot.kind,
                "pid": process.pid,
                "state": process.state,
                "revision": process.revision,
                "restarts": process.restarts,
                "adopted": process.adopted,
                "flows_lost": process.flows_lost,
            }
            for process in agent.supervisor.processes
        ],
        "maps": [{"name": name, "entries": entries, "capacity": capacity} for name, entries, capacity in fills.tables],
        "maps_age_seconds": round(agent.fills.age(fills), 1),
        "datapath": {
            "layout": LAYOUT,
            "attach": agent.datapath.attach_mode,
            "pins": str(dataplane.pins(agent.config)),
            "uplinks": agent.datapath.uplinks,
        },
        "problems": list(health.problems(agent, fills.tables, programs)),
        "enforced": [
            {
                "name": one.declared.name,
                "state": one.state,
                "programs": [name for name, there in programs.endpoints.get(one.id, {}).items() if there],
                "missing": [name for name, there in programs.endpoints.get(one.id, {}).items() if not there],
                "policy_id": agent.kernel.policy_of(one.id),
                "revision": agent.snapshot.revision if agent.snapshot else 0,
            }
            for one in agent.endpoints
        ],
        "audit": {
            "path": agent.config.audit.path,
            "written": agent.audit.written,
            "lost": agent.audit.lost,
            "left_out": agent.audit.left_out,
            "error": agent.audit.error,
        },
        "drops": [
            {"reason": reason.name, "packets": counters[reason].packets, "bytes": counters[reason].octets}
            for reason in Reason
            if reason != Reason.NONE and reason in counters
        ],
        "audited": {"packets": counters[METRIC_AUDITED].packets, "bytes": counters[METRIC_AUDITED].octets}
        if METRIC_AUDITED in counters
        else {"packets": 0, "bytes": 0},
        "events_lost": agent.kernel.events_lost(),
        "subscribers": agent.observation.hub.subscribers,
        "flows_expired": agent.kernel.evictions.expired["conntrack"],
    }


def _peers(agent: Agent) -> list[View]:
    """Who is known by more than an address and is no workload: this node, and what the configuration tells."""
    around, compiled = agent.surroundings, agent.compiled
    own = {"name": f"node/{socket.gethostname()}", "labels": around.host(agent.node_addresses)}
    found = [{**own, "addresses": [one for one in agent.node_addresses if "/" not in one]}]
    for prefix, name in around.names.items():
        identity = compiled.prefixes.get(prefix) if compiled else None
        labels = compiled.identities[identity] if compiled and identity is not None else around.places.get(prefix, ())
        found.append({"name": name, "labels": labels, "addresses": [prefix.partition("/")[0]]})
    return [{**one, "labels": sorted(one["labels"])} for one in found]


def _audited(agent: Agent, endpoint: Endpoint) -> bool:
    return endpoint.audited(agent.config.policy_audit_mode)


def endpoint(agent: Agent, endpoint: Endpoint) -> View:
    """One workload."""
    policy = agent.compiled.endpoint_policies.get(endpoint.id) if agent.compiled else None
    enforcing = {
        (False, False): "none",
        (True, False): "egress",
        (False, True): "ingress",
        (True, True): "both",
    }[(policy.enforce_egress, policy.enforce_ingress) if policy else (False, False)]
    attachment = endpoint.attachment
    return {
        "id": endpoint.id,
        "name": endpoint.declared.name,
        "netns": endpoint.declared.netns,
        "cgroup": endpoint.declared.cgroup,
        "interface": attachment.interface if attachment else "",
        "ifindex": attachment.ifindex if attachment else 0,
        "addresses": list(attachment.addresses) if attachment else [],
        "labels": list(endpoint.declared.labels),
        "identity_labels": sorted(agent.compiler.labels_of(endpoint)),
        "ports": [port_text(port) for port in endpoint.declared.ports],
        "identity": agent.compiled.endpoint_identities.get(endpoint.id, 0) if agent.compiled else 0,
        "policy_id": agent.kernel.policy_of(endpoint.id),
        "revision": agent.snapshot.revision if agent.snapshot else 0,
        "policies": list(policy.selected_by) if policy else [],
        "enforcing": enforcing,
        "audit": _audited(agent, endpoint),
        "audit_set": endpoint.audit if endpoint.audit is not None else endpoint.declared.audit,
        "state": endpoint.state,
        "message": endpoint.message,
        "source": endpoint.declared.source,
    }


def endpoints(agent: Agent) -> list[View]:
    """Every workload."""
    return [endpoint(agent, one) for one in agent.endpoints]


def identity_kind(number: int, labels: Collection[str]) -> str:
    """``reserved``, ``workload``, ``node`` (another one, that has labels), ``cidr`` or ``fqdn``."""
    if number < ids.FIRST_CLUSTER_IDENTITY:
        return "reserved"
    if number < ids.FIRST_LOCAL_IDENTITY:
        return "node" if REMOTE_NODE_LABEL in labels else "workload"
    return "fqdn" if ids.is_fqdn_identity(number) else "cidr"


def identities(agent: Agent) -> list[View]:
    """Every identity of this node, the learnt ones too."""
    used: list[int] = list(agent.compiled.endpoint_identities.values()) if agent.compiled else []
    known = ((number, agent.kernel.labels_of(number)) for number in agent.kernel.identities())
    return [
        {
            "id": number,
            "labels": list(labels),
            "kind": identity_kind(number, labels),
            "endpoints": used.count(number),
        }
        for number, labels in known
    ]


def _view_policy(agent: Agent, policy: Policy) -> View:
    endpoint_policies = agent.compiled.endpoint_policies.values() if agent.compiled else ()
    return {
        "name": policy.name,
        "kind": policy.kind,
        "file": policy.file,
        "line": policy.line,
        "rules": len(policy.rules),
        "directions": sorted(
            {rule.direction.name.lower() for rule in policy.rules}
            | ({"egress"} if policy.default_deny_egress else set())
            | ({"ingress"} if policy.default_deny_ingress else set())
        ),
        "endpoints": sum(policy.name in one.selected_by for one in endpoint_policies),
    }


def rules(agent: Agent) -> View:
    """The policies in force."""
    policies = agent.compiled.policies if agent.compiled else ()
    return {
        "revision": agent.snapshot.revision if agent.snapshot else 0,
        "policies": [_view_policy(agent, policy) for policy in policies],
    }


def sources(agent: Agent) -> View:
    """The texts that the rules in force were read from."""
    active = agent.history.active
    return {
        "revision": agent.snapshot.revision if agent.snapshot else 0,
        "sources": [{"path": path, "text": text} for path, text in active.sources] if active else [],
    }


def revisions(agent: Agent) -> list[View]:
    """The rule sets that are kept."""
    active = agent.history.active
    return [
        {
            "revision": kept.revision,
            "time": kept.time,
            "policies": kept.policies,
            "active": kept is active,
            "note": kept.note,
        }
        for kept in agent.history
    ]


def change(change: Change) -> View:
    """What a reload did."""
    return {
        "revision": change.revision,
        "changed": change.changed,
        "added": list(change.added),
        "removed": list(change.removed),
        "modified": list(change.modified),
        "endpoints_changed": len(change.endpoints),
        "endpoints": list(change.endpoints),
        "milliseconds": round(change.seconds * 1000, 1),
    }


def difference(policies: Changes, moved: tuple[EndpointChange, ...]) -> View:
    """What a reload would do."""
    return {
        "added": list(policies.added),
        "removed": list(policies.removed),
        "modified": list(policies.modified),
        "endpoints": [
            {"name": one.name, "direction": one.direction.name.lower(), "before": one.before, "after": one.after}
            for one in moved
        ],
    }
