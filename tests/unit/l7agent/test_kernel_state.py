# SPDX-License-Identifier: Apache-2.0
"""The agent's rows in real kernel tables: written beside the old ones, flipped, collected, or all taken back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from l7agent import endpoints as declarations
from l7agent.compilation import Compiler
from l7agent.endpoints import Endpoints
from l7agent.identities import Identities
from l7agent.kernel_state import KernelState
from l7agent.workload import Attachment
from l7bpf.errors import MapFull
from l7bpf.layouts import AUDIT, ENFORCE_EGRESS, FqdnIdentity, IpcacheEntry, PolicyEntry, PolicyKey
from l7bpf.maps import Maps
from l7policy import documents
from l7policy.ids import FIRST_FQDN_IDENTITY, Revision
from l7policy.names import hash64
from l7policy.policydoc import Source

HEAD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
"""
LEARNT = FIRST_FQDN_IDENTITY + 1


def rule(networks: int, first_port: int = 80, ports: int = 1) -> str:
    """One entry for each network and port."""
    listed = ", ".join(f"198.51.100.{host}/32" for host in range(networks))
    numbers = ", ".join(f"{{port: '{first_port + 2 * n}', protocol: TCP}}" for n in range(ports))
    return f"{HEAD}  - toCIDR: [{listed}]\n    toPorts: [{{ports: [{numbers}]}}]\n"


def contents(maps: Maps) -> dict[str, Any]:
    """Every row that the agent writes, but for the packets it counts."""
    return {
        "endpoints": dict(maps.endpoints.items()),
        "indexes": dict(maps.endpoint_by_ifindex.items()),
        "addresses": dict(maps.endpoint_by_address.items()),
        "ipcache": {prefix: row.identity for prefix, row in maps.ipcache.items()},
        "policy": {key: dataclasses.replace(row, packets=0, octets=0) for key, row in maps.policy.items()},
        "revision": maps.config.revision,
    }


class Node:
    """What the agent is around its tables."""

    def __init__(self, maps: Maps, folder: Path) -> None:
        self.maps = maps
        self.folder = folder
        self.endpoints = Endpoints(folder / "endpoints.json")
        self.identities = Identities(folder / "identities.json")
        self.revision = 0
        self.restart()

    def restart(self) -> None:
        """Another agent takes over the tables."""
        self.kernel = KernelState(self.maps, self.folder / "policy-ids.json")
        self.compiler = Compiler(self.identities)

    def add(self, name: str, app: str, *addresses: str) -> None:
        endpoint = self.endpoints.add(declarations.declare(name, [f"app={app}"]))
        if addresses:
            self.endpoints.located(endpoint, Attachment(f"lxc-{name}", 100 + endpoint.id, addresses, 1))

    def stage(self, text: str) -> None:
        policies = documents.load([Source("web.yaml", text)])
        compiled = self.compiler.compile(policies, self.endpoints, ("192.0.2.1",))
        self.revision += 1
        self.kernel.stage(compiled, self.endpoints, Revision(self.revision))

    def apply(self, text: str) -> None:
        """The whole transaction, without processes to wait for."""
        self.publish(text)
        self.kernel.collect(self.compiler.commit())

    def withdraw(self) -> None:
        """Takes back what was staged."""
        self.kernel.unstage()
        self.compiler.abort()

    def publish(self, text: str) -> None:
        self.stage(text)
        self.kernel.publish()


@pytest.fixture
def node(maps: Maps, tmp_path: Path) -> Node:
    """A node with one selected workload and one that is not."""
    made = Node(maps, tmp_path)
    made.add("one", "web", "203.0.113.11", "2001:db8::11")
    made.add("two", "db", "203.0.113.12")
    return made


def test_a_first_rule_set_writes_everything_that_it_says(node: Node) -> None:
    node.apply(rule(networks=2))
    held = contents(node.maps)
    assert held["revision"] == 1
    assert set(held["endpoints"]) == {1, 2}
    assert (held["endpoints"][1].flags, held["endpoints"][2].flags) == (1, 0)
    assert held["indexes"] == {101: 1, 102: 2}
    assert held["addresses"] == {"203.0.113.11": 1, "2001:db8::11": 1, "203.0.113.12": 2}
    assert held["ipcache"]["192.0.2.1/32"] == 1
    assert held["ipcache"]["203.0.113.11/32"] == held["endpoints"][1].identity
    keys = {(key.policy_id, key.identity, key.port) for key in held["policy"]}
    assert keys == {(held["endpoints"][1].policy_id, held["ipcache"][f"198.51.100.{host}/32"], 80) for host in range(2)}
    assert node.kernel.labels_of(held["ipcache"]["198.51.100.0/32"]) == ("cidr:198.51.100.0/32", "reserved:world")


def test_an_audited_workload_is_told_to_the_kernel(node: Node) -> None:
    (one, _) = node.endpoints
    node.endpoints.put_back(dataclasses.replace(one, audit=True))
    node.apply(rule(networks=2))
    assert [row.flags for _, row in sorted(node.maps.endpoints.items())] == [ENFORCE_EGRESS | AUDIT, 0]


def test_until_it_is_published_nothing_refers_to_what_is_staged(node: Node) -> None:
    node.apply(rule(networks=2))
    before = contents(node.maps)
    node.stage(rule(networks=2, first_port=90))
    during = contents(node.maps)
    assert {key: during[key] for key in before if key != "policy"} == {
        key: before[key] for key in before if key != "policy"
    }
    assert during["policy"].items() > before["policy"].items()
    node.kernel.publish()
    between = contents(node.maps)
    assert between["revision"] == 2
    assert between["endpoints"][1].policy_id != before["endpoints"][1].policy_id
    assert between["policy"] == during["policy"]
    node.kernel.collect(node.compiler.commit())
    assert {key.port for key in contents(node.maps)["policy"]} == {90}


def test_the_same_rules_again_change_nothing_but_the_revision(node: Node) -> None:
    node.apply(rule(networks=2))
    before = contents(node.maps)
    node.apply(rule(networks=2))
    assert contents(node.maps) == before | {"revision": 2}


def test_the_old_policy_knows_new_identities_before_endpoints_change(node: Node) -> None:
    """A prefix changes its identity first; the old rules must go on to hold for it."""
    wide = HEAD + "  - toCIDR: [198.51.100.0/24]\n    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n"
    node.apply(wide)
    old = node.kernel.policy_of(1)
    node.stage(wide.replace("[198.51.100.0/24]", "[198.51.100.0/24, 198.51.100.64/26]"))
    identities = {key.identity for key in contents(node.maps)["policy"] if key.policy_id == old}
    assert len(identities) == 2


@pytest.mark.parametrize(
    ("text", "table"),
    [
        (rule(networks=4, ports=10), "policy"),  # found while staging
        (rule(networks=14), "ipcache"),  # found while publishing
    ],
)
def test_what_does_not_fit_leaves_every_table_as_it_was(node: Node, text: str, table: str) -> None:
    node.apply(rule(networks=3))
    before = contents(node.maps)
    with pytest.raises(MapFull) as full:
        node.publish(text)
    assert full.value.table == table
    node.withdraw()
    assert contents(node.maps) == before
    node.apply(rule(networks=4))
    assert {key.port for key in contents(node.maps)["policy"]} == {80}


@pytest.mark.parametrize(("count", "addresses", "table"), [(5, 1, "endpoints"), (3, 2, "endpoint_by_address")])
def test_endpoints_that_do_not_fit_leave_every_table_as_it_was(
    node: Node, count: int, addresses: int, table: str
) -> None:
    node.apply(rule(networks=1))
    before = contents(node.maps)
    for number in range(count - 2):
        node.add(f"more-{number}", "web", *(f"203.0.113.{100 + 10 * number + n}" for n in range(addresses * 2)))
    with pytest.raises(MapFull) as full:
        node.publish(rule(networks=1))
    assert full.value.table == table
    node.withdraw()
    assert contents(node.maps) == before


def test_an_endpoint_that_moves_or_goes_takes_its_rows_with_it(node: Node) -> None:
    node.apply(rule(networks=1))
    one = node.endpoints.find("one")
    assert one is not None
    node.endpoints.located(one, Attachment("lxc-one", 200, ("203.0.113.99",), 2))
    node.apply(rule(networks=1))
    held = contents(node.maps)
    assert held["indexes"] == {200: 1, 102: 2}
    assert held["addresses"] == {"203.0.113.99": 1, "203.0.113.12": 2}
    assert "203.0.113.11/32" not in held["ipcache"]
    one = node.endpoints.find("one")
    assert one is not None
    node.endpoints.remove(one)
    node.apply(rule(networks=1))
    held = contents(node.maps)
    assert (set(held["endpoints"]), held["indexes"], held["policy"]) == ({2}, {102: 2}, {})


def test_the_next_agent_sweeps_what_the_one_before_wrote_and_the_names_process_did_not(
    node: Node, tmp_path: Path
) -> None:
    node.apply(rule(networks=3))
    old = node.kernel.policy_of(1)
    learnt = PolicyKey(old, LEARNT, 0, 6, 80, 16)
    node.maps.policy.update(learnt, PolicyEntry(0, 0, 1, 7))
    node.maps.ipcache.update("198.51.100.200/32", IpcacheEntry(LEARNT))
    stale = PolicyKey(999, 2, 0, 6, 80, 16)
    node.maps.policy.update(stale, PolicyEntry(0, 0, 1, 7))
    node.maps.endpoint_by_ifindex.update(77, 9)

    node.restart()
    again = node.kernel
    node.apply(rule(networks=2))
    held = contents(node.maps)
    assert stale not in held["policy"]
    assert learnt not in held["policy"], "of a policy that nobody uses any more"
    assert {key.policy_id for key in held["policy"]} == {again.policy_of(1)}
    assert len(held["policy"]) == 2
    assert held["ipcache"]["198.51.100.200/32"] == LEARNT
    assert held["indexes"] == {101: 1, 102: 2}
    assert "198.51.100.2/32" not in held["ipcache"]


def test_the_next_agent_needs_no_room_for_the_same_rules(node: Node) -> None:
    room = node.maps.policy.capacity
    rules = rule(networks=1, ports=20)
    node.apply(rules)
    one = node.maps.endpoints.get(1)
    assert one is not None
    filler = [PolicyKey(one.policy_id, LEARNT, 0, 6, n, 16) for n in range(1, room - 19)]
    for key in filler:
        node.maps.policy.update(key, PolicyEntry(0))
    (key, row), *_ = ((key, row) for key, row in node.maps.policy.items() if key.identity != LEARNT)
    node.maps.policy.update(key, dataclasses.replace(row, packets=7, octets=70))
    before = contents(node.maps)
    node.restart()
    node.apply(rules)
    assert contents(node.maps) == before | {"revision": 2}
    counted = node.maps.policy.get(key)
    assert counted is not None
    assert (counted.packets, counted.octets) == (7, 70)


def test_what_an_agent_began_and_did_not_finish_makes_room_for_the_next(node: Node) -> None:
    node.apply(rule(networks=1))
    before = contents(node.maps)
    node.stage(rule(networks=1, first_port=8000, ports=20))
    node.restart()
    node.stage(rule(networks=1))
    assert contents(node.maps)["policy"] == before["policy"]


def test_a_row_that_another_version_wrote_differently_is_put_right_or_back(node: Node) -> None:
    node.apply(rule(networks=1))
    ((key, row),) = node.maps.policy.items()
    other = dataclasses.replace(row, cookie=row.cookie ^ 1)
    node.maps.policy.update(key, other)
    node.restart()
    node.stage(rule(networks=1))
    assert node.maps.policy.get(key) == row
    node.withdraw()
    assert node.maps.policy.get(key) == other
    node.apply(rule(networks=1))
    assert node.maps.policy.get(key) == row


def test_numbers_that_nobody_remembers_are_given_anew_and_the_old_rows_swept(node: Node) -> None:
    node.apply(rule(networks=2))
    before = {key.policy_id for key, _ in node.maps.policy.items()}
    (node.folder / "policy-ids.json").write_text("{")
    node.restart()
    node.apply(rule(networks=2))
    after = {key.policy_id for key, _ in node.maps.policy.items()}
    assert before.isdisjoint(after)
    assert len(list(node.maps.policy.items())) == 2


def test_a_learnt_address_is_not_taken_from_the_names_process(node: Node) -> None:
    node.maps.ipcache.update("198.51.100.0/32", IpcacheEntry(LEARNT))
    node.apply(rule(networks=2))
    assert contents(node.maps)["ipcache"]["198.51.100.0/32"] == LEARNT
    node.apply(rule(networks=1))
    assert contents(node.maps)["ipcache"]["198.51.100.0/32"] == LEARNT


def test_what_connections_go_by_that_are_open_is_left_as_the_names_process_wrote_it(node: Node) -> None:
    kept = ("198.51.100.200/32", "198.51.100.0/32")
    for prefix in kept:
        node.maps.ipcache.update(prefix, IpcacheEntry(2, LEARNT))
    node.apply(rule(networks=2))
    # One of the two is a prefix of the agent's now, for new flows.
    rows = dict(node.maps.ipcache.items())
    assert [rows[prefix].established for prefix in kept] == [LEARNT, LEARNT]
    node.restart()
    node.apply(rule(networks=0))
    rows = dict(node.maps.ipcache.items())
    assert [rows[prefix].established for prefix in kept] == [LEARNT, LEARNT]


def test_a_learnt_identity_is_shown_by_its_names_and_those_of_its_base(node: Node) -> None:
    node.apply(HEAD + "  - toFQDNs: [{matchName: api.example.com}]\n")
    node.maps.fqdn_identities.update(LEARNT, FqdnIdentity(2, (hash64("fqdn:api.example.com"), hash64("fqdn:unknown"))))
    assert node.kernel.labels_of(LEARNT) == ("fqdn:api.example.com", "reserved:world")
    assert LEARNT in node.kernel.identities()
    assert node.kernel.labels_of(LEARNT + 1) == ()


def test_unstaging_nothing_is_nothing(node: Node) -> None:
    before = contents(node.maps)
    node.withdraw()
    assert contents(node.maps) == before


def test_how_full_each_table_is_can_be_told(node: Node) -> None:
    node.apply(rule(networks=2))
    fills = {name: (entries, capacity) for name, entries, capacity in node.kernel.fills()}
    assert fills["policy"] == (2, 32)
    assert fills["endpoints"] == (2, 4)
    assert fills["ipcache"][1] == 16
