# SPDX-License-Identifier: Apache-2.0
import ipaddress

from l7lab import services, topology

DOCUMENTATION = [
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


def test_every_address_is_for_documentation() -> None:
    plan = topology.plan("x-")
    addresses = [
        topology.NODE_V4,
        topology.NODE_V6,
        topology.RESOLVER_V4,
        topology.RESOLVER_V6,
        topology.GATEWAY_V4,
        *topology.SERVICES_V4,
        *topology.SERVICES_V6,
        *(address for workload in plan.workloads for address in (workload.v4, workload.v6)),
    ]
    for address in map(ipaddress.ip_address, addresses):
        assert any(address in network for network in DOCUMENTATION), address


def test_every_name_leads_to_a_service_and_one_service_has_no_name() -> None:
    served = {*topology.SERVICES_V4, *topology.SERVICES_V6}
    named = {address for name in (*services.ZONE, *services.ALIASES) for address in services.addresses(name)}
    assert named <= served
    assert topology.UNNAMED in served - named


def test_labs_share_no_name() -> None:
    one, other = ({namespace.name for namespace in topology.plan(prefix).namespaces} for prefix in ("a-", "b-"))
    assert len(one) == 5
    assert not one & other


def test_interface_names_fit_the_kernel() -> None:
    assert all(len(workload.interface) < 16 for workload in topology.plan("l7lab-abcdef-").workloads)
