# SPDX-License-Identifier: Apache-2.0
"""The columns of everything that l7ctl lists: what the API's lists hold (docs/reference/api.md), as people see it."""

from collections.abc import Mapping
from typing import Any, Final

from l7observe import record
from l7observe.columns import Column, Columns, key

Item = Mapping[str, Any]


def moment(value: object) -> str:
    """Seconds since the epoch as RFC 3339; anything else as it is."""
    if isinstance(value, int | float):
        try:
            return record.timestamp(float(value))[:19] + "Z"
        except (ValueError, OverflowError, OSError):
            return str(value)
    return str(value)


def seconds(value: object) -> str:
    """A duration in whole seconds; anything else as it is."""
    return f"{value:.0f}" if isinstance(value, int | float) else str(value)


def share(item: Item) -> object:
    """How full a kernel table is."""
    capacity = item.get("capacity")
    return f"{100 * item.get('entries', 0) / capacity:.0f}%" if capacity else None


def labels(value: object) -> str:
    """``reason=POLICY_DENIED status=4xx``."""
    return " ".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, Mapping) else str(value)


def number(value: object) -> str:
    """Whole numbers without a point, others with six digits that count."""
    return f"{value:.6g}" if isinstance(value, float) and not value.is_integer() else f"{float(str(value)):.0f}"


ENDPOINTS: Final = Columns(
    key("id", "EndpointId", justify="right"),
    key("name", "What people call it"),
    key("netns", "Network namespace, by name or path"),
    key("cgroup", "Cgroup, of processes of the node itself"),
    key("interface", "Its interface on the node's side", default=False),
    key("ifindex", "Number of that interface", justify="right", default=False),
    key("addresses", "Its addresses"),
    key("labels", "What policies select it by"),
    key("identity", "Number of its set of labels", justify="right"),
    key("policy_id", "Its compiled verdicts in the kernel", justify="right", default=False),
    key("enforcing", "Directions in which what no rule allows is denied"),
    key("audit", "Whether what its policy denies passes and is only recorded"),
    key("policies", "Policies that select it"),
    key("audit_set", "What a command or its declaration says of that; nothing: the configuration does", default=False),
    key("ports", "Ports that policies call by name", default=False),
    key("identity_labels", "Those of its labels that count for its identity", default=False),
    key("revision", "Rule set it is judged by", justify="right", default=False),
    key("state", "ready, waiting or error"),
    key("message", "Why it is not ready", default=False),
    key("source", "Declared by command or by file", default=False),
)

IDENTITIES: Final = Columns(
    key("id", "IdentityId", justify="right"),
    key("kind", "reserved, workload, cidr or fqdn"),
    key("endpoints", "Workloads of this node that have it", justify="right"),
    key("labels", "What it stands for"),
)

POLICIES: Final = Columns(
    key("name", "namespace/name"),
    key("kind", "Its dialect"),
    key("directions", "What it has rules for"),
    key("rules", "How many rules it was compiled to", justify="right"),
    key("endpoints", "Workloads it selects", justify="right"),
    key("file", "Where it was read"),
    key("line", "Line in that file", justify="right"),
)

REVISIONS: Final = Columns(
    key("revision", "Number of the rule set", justify="right"),
    key("time", "When it came into force", text=moment),
    key("policies", "How many policies it has", justify="right"),
    key("active", "Whether it is in force"),
    key("note", "How it came about"),
)

AFFECTED: Final = Columns(
    key("name", "Endpoint"),
    key("direction", "egress or ingress"),
    key("before", "What applied"),
    key("after", "What would apply"),
)

FQDN_CACHE: Final = Columns(
    key("endpoint", "Workload that asked, or that is connected"),
    key("source", "lookup, operator for what the pre-cache file said, or connection for what is over but for those"),
    key("name", "Name that was asked for", header="FQDN"),
    key("ttl", "Seconds until it is forgotten", justify="right", text=seconds),
    key("expires", "When the address is forgotten", header="EXPIRATION TIME", text=moment),
    key("address", "Address that was learnt", header="IPS"),
    key("identity", "Identity of the address", justify="right"),
    key("selectors", "toFQDNs selectors that match the name, of policies that may ask the resolver"),
    key("resolver", "Name server that said so"),
    key("open_for", "Workloads that may reach it for this", default=False),
)

FQDN_NAMES: Final = Columns(
    key("selector", "matchName or matchPattern of a toFQDNs rule"),
    key("names", "Names it matches that were asked for"),
    key("addresses", "Addresses they stand for"),
)

FQDN_PATTERNS: Final = Columns(
    key("pattern", "matchName or matchPattern"),
    key("in", "toFQDNs: may be reached; rules.dns: may be asked for"),
    key("matches", "Whether it matches the name"),
    key("rules", "Rules that have it"),
    key("endpoints", "Workloads that they apply to"),
)

FQDN_ADDRESSES: Final = Columns(
    key("address", "Where the name leads"),
    key("ttl", "Seconds until it is forgotten", justify="right", text=seconds),
    key("resolver", "Name server that said so"),
    key("identity", "Identity of the address", justify="right"),
    key("asked_by", "Workloads that asked"),
    key("open_for", "Workloads that may reach it for this"),
)

FQDN_AUDIT: Final = Columns(
    key("endpoint", "Workload that sends"),
    key("address", "Where to"),
    key("port", "Destination port", justify="right"),
    key("protocol", "TCP, UDP…"),
    key("identity", "Identity of the address", justify="right", default=False),
    key("flows", "Connections that the kernel remembers", justify="right"),
    key("packets", "Of them together", justify="right"),
    key("bytes", "Of them together", justify="right"),
)

BPF_POLICY: Final = Columns(
    key("policy_id", "Whose verdicts", header="POLICY ID", justify="right"),
    key("endpoints", "Workloads judged by it"),
    key("direction", "Seen from the workload"),
    key("identity", "Of the other side; 0 is anybody", justify="right"),
    key("labels", "What that identity stands for"),
    key("protocol", "Transport protocol"),
    key("port", "Destination port or range"),
    key("verdict", "allow, deny or redirect"),
    key("proxy", "Which proxy a redirect goes to"),
    key("precedence", "The higher wins", justify="right", default=False),
    key("packets", "That it was asked about: the first of each flow it allows, all that it denies", justify="right"),
    key("bytes", "In those packets", justify="right"),
    key("rule", "Rule that caused the entry"),
)

BPF_IPCACHE: Final = Columns(
    key("prefix", "Addresses"),
    key("identity", "Their identity", justify="right"),
    key("established", "What connections that are open go by, where that is another", justify="right"),
    key("labels", "What the identity stands for"),
)

BPF_CONNTRACK: Final = Columns(
    key("protocol", "Transport protocol"),
    key("source", "Address of the side that began"),
    key("source_port", "Its port, or the id of an ICMP echo", header="SPORT", justify="right"),
    key("source_name", "The workload behind it", default=False),
    key("destination", "Address of the other side"),
    key("destination_port", "Its port", header="DPORT", justify="right"),
    key("destination_name", "The workload behind it", default=False),
    key("proxy", "Where its packets go"),
    key("upstream", "Whether a proxy's own socket has this tuple", default=False),
    key("flags", "local, from-node, denied, guessed"),
    key("packets", "In both directions", justify="right"),
    key("bytes", "In those packets", justify="right"),
    key("idle", "Seconds since the last packet", justify="right"),
    key("revision", "Rule set it was judged by", justify="right"),
)

PROCESSES: Final = Columns(
    key("name", "Process"),
    key("kind", "http or dns", default=False),
    key("pid", "Its number", justify="right"),
    key("state", "ready, starting or down"),
    key("revision", "Rule set it judges by", justify="right"),
    key("restarts", "Since the agent started", justify="right"),
    key("adopted", "Whether it is older than the agent"),
    key("flows_lost", "Flows it could not hand over", justify="right"),
)

MAPS: Final = Columns(
    key("name", "Kernel table"),
    key("entries", "In use", justify="right"),
    key("capacity", "At most", justify="right"),
    Column("used", "USED", "Share in use", share, justify="right"),
)

ENFORCED: Final = Columns(
    key("name", "Endpoint"),
    key("state", "ready, waiting or error"),
    key("programs", "Programs that the kernel has attached"),
    key("missing", "Programs that should be there"),
    key("policy_id", "Its compiled verdicts in the kernel", header="POLICY ID", justify="right"),
    key("revision", "Rule set it is judged by", justify="right"),
)

DROPS: Final = Columns(
    key("reason", "Why packets were dropped"),
    key("packets", "How many", justify="right"),
    key("bytes", "In those packets", justify="right"),
)

METRICS: Final = Columns(
    key("name", "As Prometheus knows it", header="METRIC"),
    key("labels", "What it is counted by", text=labels),
    key("value", "Now; counters since what they count began", justify="right", text=number),
    key("type", "counter, gauge or histogram", default=False),
)

ALL: Final = {
    "endpoint list": ENDPOINTS,
    "identity list": IDENTITIES,
    "rules list": POLICIES,
    "rules revisions": REVISIONS,
    "rules diff": AFFECTED,
    "fqdn cache list": FQDN_CACHE,
    "fqdn names": FQDN_NAMES,
    "fqdn audit": FQDN_AUDIT,
    "bpf policy get": BPF_POLICY,
    "bpf ipcache list": BPF_IPCACHE,
    "bpf ct list": BPF_CONNTRACK,
    "metrics list": METRICS,
}
"""By command, for the docs."""
