# SPDX-License-Identifier: Apache-2.0
"""The shapes of the kernel's tables, by name: what the loader expects to be pinned and `l7bpf.maps` opens."""

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
    size_macro: str = ""


def _spec(name: str, kind: int, key: struct.Struct, value: struct.Struct | int, size_macro: str = "") -> MapSpec:
    return MapSpec(name, kind, key.size, value if isinstance(value, int) else value.size, size_macro)


_HASH, _ARRAY, _PERCPU_ARRAY, _LRU_HASH, _LPM_TRIE, _SOCKHASH, _CGROUP_STORAGE, _RINGBUF = 1, 2, 6, 9, 11, 18, 19, 27
_U64 = struct.Struct("=Q")

MAPS: Final = {
    spec.name: spec
    for spec in (
        _spec("endpoints", _HASH, U32.LAYOUT, Endpoint.LAYOUT, "MAX_ENDPOINTS"),
        _spec("endpoint_by_ifindex", _HASH, U32.LAYOUT, U32.LAYOUT, "MAX_ENDPOINTS"),
        _spec("endpoint_by_address", _HASH, AddressKey.LAYOUT, U32.LAYOUT, "MAX_ENDPOINT_ADDRESSES"),
        _spec("ipcache", _LPM_TRIE, IpcacheKey.LAYOUT, IpcacheEntry.LAYOUT, "MAX_IPCACHE"),
        _spec("policy", _LPM_TRIE, PolicyKey.LAYOUT, PolicyEntry.LAYOUT, "MAX_POLICY"),
        _spec("conntrack", _LRU_HASH, ConntrackKey.LAYOUT, ConntrackEntry.LAYOUT, "MAX_CONNTRACK"),
        _spec("fragments", _LRU_HASH, FragmentKey.LAYOUT, FragmentEntry.LAYOUT, "MAX_FRAGMENTS"),
        _spec("cgroup_endpoints", _CGROUP_STORAGE, _U64, CgroupEndpoint.LAYOUT),
        _spec("host_flows", _LRU_HASH, ConntrackKey.LAYOUT, HostFlow.LAYOUT, "MAX_HOST_FLOWS"),
        _spec("uplinks", _HASH, U32.LAYOUT, U32.LAYOUT),
        _spec("config", _ARRAY, U32.LAYOUT, Config.LAYOUT),
        _spec("fqdn_identities", _HASH, U32.LAYOUT, FqdnIdentity.LAYOUT, "MAX_FQDN_IDENTITIES"),
        _spec("listeners", _SOCKHASH, ListenerKey.LAYOUT, 8),
        _spec("event_budget", _PERCPU_ARRAY, U32.LAYOUT, 8),
        _spec("metrics", _PERCPU_ARRAY, U32.LAYOUT, Metric.LAYOUT),
        MapSpec("events", _RINGBUF, 0, 0, "MAX_EVENT_BYTES"),
        MapSpec("passed", _RINGBUF, 0, 0, "MAX_EVENT_BYTES"),
    )
}
