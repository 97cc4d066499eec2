# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration file: every key, its default, and nothing else accepted."""

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from l7agent import textfile
from l7agent.surroundings import Entities, OtherNode, Surroundings, gather
from l7observe.audit import AUDITED_PER_SECOND
from l7policy import labelfilter, schemapath, yamltree
from l7policy.errors import PolicyErrors
from l7policy.resolve import Mode
from l7proxy.redaction import SECRET_HEADERS

DEFAULT_PATH: Final = Path("/etc/l7/config.yaml")
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the configuration's sections."""


class AuditConfig(Section, frozen=True):
    """Where denies are recorded."""

    path: str = "/var/log/l7/audit.jsonl"
    max_bytes: Count = 50 << 20
    backups: Annotated[int, msgspec.Meta(ge=0)] = 5
    audited_per_second: Annotated[int, msgspec.Meta(ge=0)] = AUDITED_PER_SECOND
    """Records of verdict AUDIT of one endpoint; 0 for no limit."""
    refused_names_per_second: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Records of questions of one endpoint that were refused; 0 for no limit. Other denies have no limit to set."""


class ApiConfig(Section, frozen=True):
    """The socket `l7ctl` talks to: mode 0660, owned by `group` if the group exists."""

    socket: str = "/run/l7/agent.sock"
    group: str = "l7"


class MetricsConfig(Section, frozen=True):
    """Metrics for Prometheus, beside the API's socket, which always has them."""

    listen: str = ""
    """``127.0.0.1:9964``: where they are served by HTTP, too. Workloads are refused there. Empty: nowhere."""


class MapsConfig(Section, frozen=True):
    """Capacities of the kernel's tables, in entries."""

    ipcache: Count = 65536
    policy: Count = 65536
    conntrack: Count = 131072
    fragments: Count = 4096
    host_flows: Count = 32768
    """Flows of processes of the node itself, those of endpoints that are cgroups."""
    endpoints: Count = 1024
    fqdn_identities: Count = 16384
    event_bytes: Annotated[int, msgspec.Meta(ge=4096, le=1 << 30)] = 1 << 20
    """Of each of the two rings that drops and what passes are told by; a power of two."""
    events_per_second: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """Of each processor and ring; what is over it is counted as lost."""


class DnsConfig(Section, frozen=True):
    """Limits of the DNS proxy."""

    min_ttl: Annotated[int, msgspec.Meta(ge=0)] = 0
    grace: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Seconds that an address stays open after its TTL, for programs that keep answers too long. Connections that are
    open by then go on in any case."""
    upstream_timeout: Seconds = 5.0
    max_inflight: Count = 4096
    queries_per_second: Annotated[int, msgspec.Meta(ge=0)] = 5000
    """Of one workload; 0 for no limit. Queries over it are answered with SERVFAIL."""
    max_addresses_per_name: Count = 1000
    max_names: Count = 100_000
    max_addresses: Count = 32_768
    """Of all names together; about one kilobyte of memory each."""
    svcb_hints: Literal["learn", "keep", "strip"] = "learn"
    """Addresses in SVCB and HTTPS records: learnt for the asked name, relayed only, or taken out."""
    bind_aliases: bool = False
    """Targets of CNAMEs count for ``toFQDNs`` as if they had been asked for."""
    pre_cache: str = ""
    """A file of names that are known from the start, as ``l7ctl fqdn cache list -o json`` writes it."""
    trust: Literal["policy", "node"] = "policy"
    """Whose answers open addresses. ``policy``: for each policy the servers that its own DNS rules let endpoints ask.
    ``node``: what any workload may ask counts for all of them, as in Cilium."""
    trusted_resolvers: list[str] = []
    """Prefixes of name servers whose answers count for every policy; with ``trust: node`` no others count then."""
    special_addresses: list[str] = []
    """Prefixes that names may lead to although they are loopback, link-local or multicast (DNS rebinding)."""


class RedactConfig(Section, frozen=True):
    """What of requests no record shows."""

    query: bool = False
    userinfo: bool = True
    headers: tuple[str, ...] = SECRET_HEADERS
    """Names of fields whose values are left out where a record names them; ``*``: of all."""


class NodeConfig(Section, frozen=True):
    """The node itself, for policies that select it."""

    labels: dict[str, str] = {}
    """As ``nodeSelector`` sees them."""
    audit: bool | None = None
    """Whether what host policies deny passes, and is recorded; None: as `policy_audit_mode` says."""


class HttpConfig(Section, frozen=True):
    """Limits of the HTTP proxy, per worker."""

    head_timeout: Seconds = 10.0
    idle_timeout: Seconds = 300.0
    connect_timeout: Seconds = 5.0
    pin_names: bool = False
    """Host must be a name by which ``toFQDNs`` allowed the destination."""
    stall_timeout: Seconds = 300.0
    min_body_rate: Annotated[int, msgspec.Meta(ge=0)] = 240
    """Bytes per second; 0 for none."""
    request_timeout: Seconds = 3600.0
    max_connections: Count = 16384
    max_connections_per_endpoint: Count = 2048
    max_head_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 32768
    ambiguous_paths: Literal["reject", "normalise"] = "reject"
    """What becomes of a request whose path a server could read differently from the rules (`l7proxy.request_path`)."""
    redact: RedactConfig = RedactConfig()


class Config(Section, frozen=True):
    """The whole file. Paths are absolute."""

    policies: str = "/etc/l7/policies.d"
    endpoints: str = "/etc/l7/endpoints.d"
    secrets: str = "/etc/l7/secrets.d"
    """Contents of the secrets that HTTP rules refer to (`l7agent.secretfiles`)."""
    state: str = "/var/lib/l7"
    cache: str = "/var/cache/l7"
    """Compiled programs; they are made again when they are not there."""
    run: str = "/run/l7"
    pins: str = "/sys/fs/bpf/l7"
    uplinks: Literal["auto"] | list[str] = "auto"
    enforcement: Mode = Mode.DEFAULT
    """Whom policy is enforced for: endpoints that a policy selects, all endpoints, or nobody."""
    policy_audit_mode: bool = False
    """What policy denies passes, and is recorded as AUDIT; an endpoint may say otherwise for itself."""
    labels: tuple[str, ...] = ()
    """Rules beside Cilium's own for the labels that count for a workload's identity (`l7policy.labelfilter`)."""
    http_workers: Literal["auto"] | Annotated[int, msgspec.Meta(ge=1, le=8)] = "auto"
    attach: Literal["auto", "tcx", "tc"] = "auto"
    """``tcx``, ``tc``, or ``auto``: TCX links where the kernel has them (6.6), else the clsact qdisc."""
    access_log: bool = False
    """Keep records of what passes the proxies although nobody listens, for `l7ctl monitor --last`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    audit: AuditConfig = AuditConfig()
    api: ApiConfig = ApiConfig()
    metrics: MetricsConfig = MetricsConfig()
    maps: MapsConfig = MapsConfig()
    dns: DnsConfig = DnsConfig()
    http: HttpConfig = HttpConfig()
    node: NodeConfig = NodeConfig()
    nodes: list[OtherNode] | None = None
    """The other nodes of the cluster; None: nothing is known of them."""
    entities: Entities = Entities()
    """Who else is known by more than an address."""

    @property
    def surroundings(self) -> Surroundings:
        """What the last three say. `parse` has seen to it that it makes sense."""
        return gather(self.node.labels, self.nodes, self.entities)


class ConfigError(Exception):
    """The file cannot be used. The text names file, line and column where there is one."""


def load(path: Path | str | None = None) -> Config:
    """Reads the file; a missing file at the default path is an empty one. Raises ConfigError."""
    chosen = Path(path) if path else DEFAULT_PATH
    try:
        text = textfile.read(chosen, named=True)
    except FileNotFoundError:
        if path and chosen != DEFAULT_PATH:
            raise ConfigError(f"{chosen}: no such file") from None
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{chosen}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return parse(str(chosen), text)


def parse(path: str, text: str) -> Config:
    """The configuration in `text`. Raises ConfigError."""
    try:
        nodes = yamltree.parse(path, text)
        config = schemapath.to_struct(nodes[0], Config) if nodes else Config()
    except PolicyErrors as error:
        raise ConfigError(str(error)) from error
    for key in ("policies", "endpoints", "secrets", "state", "cache", "run", "pins"):
        if not getattr(config, key).startswith("/"):
            raise ConfigError(f"{path}: {key}: {getattr(config, key)!r} must be an absolute path")
    for key in ("trusted_resolvers", "special_addresses"):
        for prefix in getattr(config.dns, key):
            try:
                ipaddress.ip_network(prefix)
            except ValueError as error:
                raise ConfigError(f"{path}: dns.{key}: {error}; write it as 192.0.2.0/24") from error
    if config.maps.event_bytes & (config.maps.event_bytes - 1):
        raise ConfigError(f"{path}: maps.event_bytes: {config.maps.event_bytes} is not a power of two")
    try:
        metrics_address(config.metrics.listen)
    except ValueError as error:
        raise ConfigError(f"{path}: metrics.listen: {error}") from error
    try:
        labelfilter.check(config.labels)
    except ValueError as error:
        raise ConfigError(f"{path}: labels: {error}") from error
    try:
        _ = config.surroundings
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def metrics_address(listen: str) -> tuple[str, int] | None:
    """Address and port of `metrics.listen`; None for none. A port alone is one of 127.0.0.1. Raises ValueError."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{listen!r} has no port; write it as 127.0.0.1:9964 or [::1]:9964")
    address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]") or "127.0.0.1")
    return str(address), int(port)
