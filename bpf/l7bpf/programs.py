# SPDX-License-Identifier: Apache-2.0
"""The datapath's programs by name, and what each is to the kernel. Where they are attached: `l7bpf.attach`."""

from typing import Final, NamedTuple

from l7bpf import libbpf


class Kind(NamedTuple):
    """The kernel's enum bpf_prog_type and enum bpf_attach_type; 0 where the latter says nothing."""

    type: int
    attach_type: int


_CLASSIFIER: Final = Kind(3, 0)
_CGROUP_SKB, _SK_LOOKUP = 8, 30

PROGRAMS: Final = {
    "from_endpoint": _CLASSIFIER,
    "to_endpoint": _CLASSIFIER,
    "from_uplink": _CLASSIFIER,
    "to_uplink": _CLASSIFIER,
    "cgroup_ingress": Kind(_CGROUP_SKB, libbpf.BPF_CGROUP_INET_INGRESS),
    "cgroup_egress": Kind(_CGROUP_SKB, libbpf.BPF_CGROUP_INET_EGRESS),
    "steer": Kind(_SK_LOOKUP, libbpf.BPF_SK_LOOKUP),
}
