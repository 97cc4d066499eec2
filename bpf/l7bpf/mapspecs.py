# SPDX-License-Identifier: Apache-2.0
"""The shapes of the kernel's tables, by name: what the loader makes and `l7bpf.maps` opens."""

import struct
from dataclasses import dataclass
from typing import Final

from l7bpf.flows import ConntrackEntry, ConntrackKey, FragmentEntry, FragmentKey
from l7bpf.hostflows import CgroupEndpoint, HostFlow
from l7bpf.layouts import (
    U32,
    AddressKey,
    Config,
    Endpoint,
    FqdnIdentity,
    IpcacheEntry,
    IpcacheKey,
    ListenerKey,
    Metric,
    PolicyEntry,
    PolicyKey,
)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """Shape of one table; `type` is the kernel's enum bpf_map_type."""

    name: str
    type: int
    key_size: int
    value_size: int
    sized_by: str = ""
    """The field of `loader.Constants` with the number of its entries; empty: it is as maps.h says."""


def _spec(name: str, kind: int, key: struct.Struct, value: struct.Struct | int, sized_by: str = "") -> MapSpec:
    return MapSpec(name, kind, key.size, value if isinstance(value, int) else value.size, sized_by)


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LPM_TRIE, _SOCKHASH, _CGROUP_STORAGE, _RINGBUF = 1, 2, 6, 9, 11, 18, 19, 27
_U64 = struct.Struct("=Q")

MAPS: Final = {
    spec.name: spec
    for spec in (
        _spec("endpoints", _HASH, U32.LAYOUT, Endpoint.LAYOUT, "max_endpoints"),
        _spec("endpoint_by_ifindex", _HASH, U32.LAYOUT, U32.LAYOUT, "max_endpoints"),
        _spec("endpoint_by_address", _HASH, AddressKey.LAYOUT, U32.LAYOUT, "max_endpoint_addresses"),
        _spec("ipcache", _LPM_TRIE, IpcacheKey.LAYOUT, IpcacheEntry.LAYOUT, "max_ipcache"),
        _spec("policy", _LPM_TRIE, PolicyKey.LAYOUT, PolicyEntry.LAYOUT, "max_policy"),
        _spec("conntrack", _LRU_HASH, ConntrackKey.LAYOUT, ConntrackEntry.LAYOUT, "max_conntrack"),
        _spec("fragments", _LRU_HASH, FragmentKey.LAYOUT, FragmentEntry.LAYOUT, "max_fragments"),
        _spec("cgroup_endpoints", _CGROUP_STORAGE, _U64, CgroupEndpoint.LAYOUT),
        _spec("host_flows", _LRU_HASH, ConntrackKey.LAYOUT, HostFlow.LAYOUT, "max_host_flows"),
        _spec("uplinks", _HASH, U32.LAYOUT, U32.LAYOUT),
        _spec("config", _ARRAY, U32.LAYOUT, Config.LAYOUT),
        _spec("fqdn_identities", _HASH, U32.LAYOUT, FqdnIdentity.LAYOUT, "max_fqdn_identities"),
        _spec("listeners", _SOCKHASH, ListenerKey.LAYOUT, 8),
        _spec("event_budget", _PERCPU_ARRAY, U32.LAYOUT, 8),
        _spec("metrics", _PERCPU_ARRAY, U32.LAYOUT, Metric.LAYOUT),
        MapSpec("events", _RINGBUF, 0, 0, "max_event_bytes"),
        MapSpec("passed", _RINGBUF, 0, 0, "max_event_bytes"),
    )
}
