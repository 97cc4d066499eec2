# SPDX-License-Identifier: Apache-2.0
"""The Python twins of the C structs, held against what the C compiler says of maps.h."""

import json
import os
import socket
import subprocess

import pytest

from l7bpf import compiler, libbpf
from l7bpf.flows import ConntrackEntry, ConntrackKey
from l7bpf.hostflows import CgroupEndpoint, HostFlow, HostSide
from l7bpf.layouts import (
    U32,
    AddressKey,
    Config,
    Endpoint,
    Event,
    FqdnIdentity,
    IpcacheEntry,
    IpcacheKey,
    ListenerKey,
    Metric,
    PolicyEntry,
    PolicyKey,
)
from l7bpf.mapspecs import MAPS

CHILD = """
import json, os, sys
job = json.load(sys.stdin)
os.environ["BCC_KERNEL_SOURCE"] = job["kernel_source"]
from bcc import BPF
bpf = BPF(text=job["source"], cflags=job["cflags"])
answer = {}
for name, data in job["rows"].items():
    kind = bpf[name].Leaf
    data = bytes.fromhex(data)
    row = kind.from_buffer_copy(data)
    answer[name] = {"size": __import__("ctypes").sizeof(kind)}
    for field, *_ in kind._fields_:
        place = getattr(kind, field)
        value = getattr(row, field)
        answer[name][field] = value if isinstance(value, int) else data[place.offset : place.offset + place.size].hex()
json.dump(answer, sys.stdout)
"""

V4, V6 = "192.0.2.7", "2001:db8::7"
V4_BYTES = bytes(12) + socket.inet_aton(V4)
V6_BYTES = socket.inet_pton(socket.AF_INET6, V6)
NET_ORDER = socket.htons

ROWS = {
    "endpoint": (Endpoint(11, 12, 13, 3), {"policy_id": 11, "identity": 12, "ifindex": 13, "flags": 3}),
    "address_key": (AddressKey(V4), {"family": 4, "word": V4_BYTES.hex()}),
    "ipcache_key": (IpcacheKey("2001:db8::/48"), {"prefixlen": 80, "family": 6}),
    "ipcache_entry": (IpcacheEntry(21, 22), {"identity": 21, "established": 22}),
    "policy_key": (
        PolicyKey(31, 32, 1, 6, 0x1234, 12),
        {"prefixlen": 92, "policy_id": 31, "identity": 32, "direction": 1, "protocol": 6, "port": NET_ORDER(0x1230)},
    ),
    "policy_entry": (
        PolicyEntry(2, 1, 154, 2**63 + 5, 41, 42),
        {"cookie": 2**63 + 5, "packets": 41, "bytes": 42, "precedence": 154, "verdict": 2, "proxy": 1},
    ),
    "conntrack_key": (
        ConntrackKey(V6, V6, 50, 51, 17),
        {
            "source": V6_BYTES.hex(),
            "destination": V6_BYTES.hex(),
            "source_port": NET_ORDER(50),
            "destination_port": NET_ORDER(51),
            "protocol": 17,
            "family": 6,
        },
    ),
    "conntrack_entry": (
        ConntrackEntry(61, 62, 63, 64, 2, 1, 4, 9),
        {
            "last_seen_ns": 61,
            "packets": 62,
            "bytes": 63,
            "revision": 64,
            "proxy": 2,
            "upstream": 1,
            "flags": 4,
            "state": 9,
        },
    ),
    "cgroup_endpoint": (CgroupEndpoint(2**63 + 1, 65, 66), {"cgroup_id": 2**63 + 1, "endpoint_id": 65, "level": 66}),
    "host_side": (HostSide(67, 68, 1), {"revision": 67, "endpoint_id": 68, "flags": 1}),
    "host_flow": (
        HostFlow(61, 62, 63, HostSide(64, 65), HostSide(66, 67, 1), 2, 1, 1),
        {
            "last_seen_ns": 61,
            "packets": 62,
            "bytes": 63,
            "began": HostSide(64, 65).pack().hex(),
            "other": HostSide(66, 67, 1).pack().hex(),
            "proxy": 2,
            "pending": 1,
            "inner": 1,
        },
    ),
    "config": (Config(71, 4, 2**40), {"revision": 71, "observe": 4, "observe_until_ns": 2**40}),
    "fqdn_identity": (FqdnIdentity(81, (5, 6)), {"base_identity": 81, "count": 2}),
    "listener_key": (ListenerKey(1, 6, 17, 3), {"proxy": 1, "family": 6, "protocol": 17, "slot": 3}),
    "metric": (Metric(91, 92), {"packets": 91, "bytes": 92}),
    "event": (
        Event(1, 2, 3, 4, 5, 6, 7, 8, V4, V4, 9, 10, 11, 4, 1, 2, 133, 3, 18, 5, 1, 0, 2),
        {
            "time_ns": 1,
            "cookie": 2,
            "endpoint_id": 3,
            "source_identity": 4,
            "destination_identity": 5,
            "policy_id": 6,
            "revision": 7,
            "length": 8,
            "source": V4_BYTES.hex(),
            "destination": V4_BYTES.hex(),
            "source_port": NET_ORDER(9),
            "destination_port": NET_ORDER(10),
            "protocol": 11,
            "family": 4,
            "direction": 1,
            "verdict": 2,
            "reason": 133,
            "kinds": 3,
            "tcp_flags": 18,
            "point": 5,
            "reply": 1,
            "judged": 0,
            "proxy": 2,
        },
    ),
}


@pytest.fixture(scope="session")
def as_c_sees_them():
    """Each row packed by Python and taken apart by the C struct's own layout."""
    with compiler.job(compiler.translation_unit(compiler.programs_folder()), {"EVENTS_PER_SECOND": 1}) as job:
        tables = "\n".join(f'BPF_TABLE("array", u32, struct {name}, layout_{name}, 1);' for name in ROWS)
        job |= {
            "source": f"{job['source']}\n{tables}\n",
            "rows": {f"layout_{name}": row.pack().hex() for name, (row, _) in ROWS.items()},
        }
        done = subprocess.run(
            [compiler.SYSTEM_PYTHON, "-I", "-c", CHILD],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ROWS)
def test_c_reads_what_python_packs(as_c_sees_them, name):
    row, fields = ROWS[name]
    seen = as_c_sees_them[f"layout_{name}"]
    assert seen["size"] == len(row.pack())
    assert {field: seen[field] for field in fields} == fields


@pytest.mark.parametrize("name", [name for name in ROWS if name != "policy_key"])
def test_python_reads_what_it_packs(name):
    row, _ = ROWS[name]
    assert type(row).unpack(row.pack()) == row


def test_the_port_of_a_policy_key_keeps_only_the_bits_that_count():
    assert PolicyKey.unpack(PolicyKey(31, 32, 1, 6, 0x1234, 12).pack()) == PolicyKey(31, 32, 1, 6, 0x1230, 12)
    assert PolicyKey.unpack(PolicyKey(31, 32, 1, 6).pack()) == PolicyKey(31, 32, 1, 6)
    assert PolicyKey.unpack(PolicyKey(31, 32, 1).pack()) == PolicyKey(31, 32, 1)


@pytest.mark.parametrize("name", MAPS)
def test_the_kernels_tables_have_the_shapes_that_python_expects(pins, name):
    fd = libbpf.obj_get(pins / "maps" / name)
    try:
        info = libbpf.map_info(fd)
    finally:
        os.close(fd)
    spec = MAPS[name]
    assert (info.type, info.key_size, info.value_size) == (spec.type, spec.key_size, spec.value_size)


def test_a_bare_number_is_four_bytes_of_the_machine():
    assert U32.unpack(U32(0x01020304).pack()).value == 0x01020304
    assert len(U32(0).pack()) == 4
