# SPDX-License-Identifier: Apache-2.0
"""A workload that is root in its own namespace says who and where it is; nothing it says there may be believed."""

from collections.abc import Callable, Iterator

import pytest

from l7lab import traffic
from l7lab.gate import Gate, Json
from l7lab.namespace import Namespace
from l7lab.process import wait_until
from l7lab.topology import UNNAMED

# The agent looks inside every namespace each fifteen seconds; what it reacts to must be seen twice.
INSPECTED = 40.0
STRANGER = "100.64.0.77"


def endpoint(gate: Gate, name: str) -> Json:
    return next(one for one in gate.endpoints() if one["name"] == name)


@pytest.fixture
def hideouts(make_gate: Callable[..., Gate]) -> Iterator[tuple[Gate, Namespace, Namespace]]:
    """A gate, and two namespaces that belong to the hostile workload."""
    gate = make_gate()
    hidden = [Namespace(f"{gate.lab.backend.namespace.name}-{number}") for number in (1, 2)]
    try:
        for namespace in hidden:
            namespace.create()
        yield gate, hidden[0], hidden[1]
    finally:
        for namespace in hidden:
            namespace.delete()


def test_a_workload_does_not_become_another_by_a_veth_pair_with_that_ones_numbers(
    hideouts: tuple[Gate, Namespace, Namespace],
) -> None:
    """Interface indices are chosen by whoever makes the interface, so equal ones prove nothing."""
    gate, first, second = hideouts
    victim, attacker = gate.lab.frontend, gate.lab.backend
    assert not traffic.connect(victim.namespace, UNNAMED, 80).open
    inside = victim.namespace.run(["cat", "/proc/net/if_inet6"]).stdout
    index = next(int(line.split()[1], 16) for line in inside.splitlines() if line.endswith("eth0"))
    listed = gate.lab.node.namespace.run(["ip", "-o", "link", "show", victim.interface]).stdout
    peer = int(listed.split(":")[0])
    attacker.namespace.ip([f"link set eth0 netns {first.name}"])
    attacker.namespace.ip(
        [
            f"link add eth9 index {index} type veth peer name eth9 index {peer} netns {second.name}",
            f"addr add {victim.v4}/32 dev eth9",
            "link set eth9 up",
        ]
    )

    wait_until(lambda: endpoint(gate, "backend")["state"] != "ready", "the agent to look again", INSPECTED)
    mine = endpoint(gate, "backend")
    assert victim.v4 not in (mine.get("addresses") or ())
    assert mine["state"] == "waiting"
    assert not traffic.connect(victim.namespace, UNNAMED, 80).open


def test_an_address_that_the_node_has_no_route_to_is_nobodys(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    batch = gate.lab.batch
    # The second address has a route: seeing it is how to know that the agent has looked.
    routed = "203.0.113.99"
    gate.lab.node.namespace.ip([f"route add {routed}/32 dev {batch.interface}"])
    batch.namespace.ip([f"addr add {STRANGER}/32 dev eth0", f"addr add {routed}/32 dev eth0"])
    wait_until(lambda: routed in endpoint(gate, "batch")["addresses"], "the agent to look again", INSPECTED)
    assert STRANGER not in endpoint(gate, "batch")["addresses"]


def test_addresses_of_others_on_its_own_interface_give_a_workload_nothing(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    batch, backend = gate.lab.batch, gate.lab.backend
    routed = "203.0.113.99"
    gate.lab.node.namespace.ip([f"route add {routed}/32 dev {batch.interface}"])
    claimed = (backend.v4, "192.0.2.10", "192.0.2.1", "203.0.113.1", "198.51.100.1")
    batch.namespace.ip([f"addr add {address}/32 dev eth0" for address in (*claimed, routed)])
    wait_until(lambda: routed in endpoint(gate, "batch")["addresses"], "the agent to look again", INSPECTED)
    assert set(endpoint(gate, "batch")["addresses"]) == {batch.v4, batch.v6, routed}
    assert traffic.dns(gate.lab.frontend.namespace, "api.example.com").rcode == "NOERROR"
