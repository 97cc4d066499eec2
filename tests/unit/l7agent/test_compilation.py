# SPDX-License-Identifier: Apache-2.0
"""From policies and workloads to what the kernel should hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from l7agent import endpoints as declarations
from l7agent.compilation import Compiled, Compiler, host_prefix
from l7agent.endpoints import Endpoint, Endpoints
from l7agent.identities import Identities
from l7agent.surroundings import Entities, OtherNode, gather
from l7agent.workload import Attachment
from l7policy import documents, ids
from l7policy.ids import EndpointId
from l7policy.policydoc import Source

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toCIDR: [198.51.100.0/24, 198.51.100.64/26, "2001:db8::/32"]
  - toFQDNs: [{matchName: api.example.com}]
"""


@pytest.fixture
def table(tmp_path: Path) -> Endpoints:
    return Endpoints(tmp_path / "endpoints.json")


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path / "identities.json")


def add(table: Endpoints, name: str, app: str, *addresses: str) -> Endpoint:
    """A workload, present if it has addresses."""
    endpoint = table.add(declarations.declare(name, [f"app={app}"]))
    if not addresses:
        return endpoint
    return table.located(endpoint, Attachment(f"lxc-{name}", 100 + endpoint.id, addresses, 1))


def compiled(table: Endpoints, identities: Identities, node: tuple[str, ...] = (), text: str = POLICY) -> Compiled:
    return Compiler(identities).compile(documents.load([Source("web.yaml", text)]), table, node)


@pytest.mark.parametrize(("address", "prefix"), [("192.0.2.1", "192.0.2.1/32"), ("2001:db8:0:0::1", "2001:db8::1/128")])
def test_the_prefix_of_an_address_holds_just_it(address: str, prefix: str) -> None:
    assert host_prefix(address) == prefix


def test_workloads_with_equal_labels_share_identity_and_policy(table: Endpoints, identities: Identities) -> None:
    one, two, other = add(table, "one", "web"), add(table, "two", "web"), add(table, "other", "db")
    result = compiled(table, identities)
    assert result.endpoint_identities[one.id] == result.endpoint_identities[two.id]
    assert result.endpoint_identities[one.id] != result.endpoint_identities[other.id]
    assert result.endpoint_policies[one.id] is result.endpoint_policies[two.id]
    assert result.endpoint_policies[one.id].enforce_egress
    assert result.endpoint_policies[one.id].selected_by == ("default/web",)
    assert not result.endpoint_policies[other.id].enforce_egress


def test_a_network_within_another_has_the_labels_of_both(table: Endpoints, identities: Identities) -> None:
    result = compiled(table, identities)
    inner, outer = (result.identities[result.prefixes[prefix]] for prefix in ("198.51.100.64/26", "198.51.100.0/24"))
    assert outer == {"cidr:198.51.100.0/24", "reserved:world"}
    assert inner == outer | {"cidr:198.51.100.64/26"}


def test_what_is_on_the_node_is_known_by_its_labels_whatever_network_it_lies_in(
    table: Endpoints, identities: Identities
) -> None:
    web = add(table, "one", "web", "198.51.100.70", "2001:db8::70")
    result = compiled(table, identities, ("198.51.100.1", "2001:db8::1"))
    assert {result.prefixes[p] for p in ("198.51.100.1/32", "2001:db8::1/128")} == {ids.HOST}
    mine = result.endpoint_identities[web.id]
    assert {result.prefixes[p] for p in ("198.51.100.70/32", "2001:db8::70/128")} == {mine}


def test_a_workload_that_is_not_there_yet_has_a_policy_and_no_address(table: Endpoints, identities: Identities) -> None:
    waiting = add(table, "one", "web")
    result = compiled(table, identities)
    assert result.endpoint_policies[waiting.id].enforce_egress
    assert result.endpoint_identities[waiting.id] not in result.prefixes.values()


def test_the_reserved_identities_are_always_there(table: Endpoints, identities: Identities) -> None:
    result = compiled(table, identities, text="")
    assert set(result.identities) == {ids.HOST, ids.WORLD, ids.REMOTE_NODE}
    assert (result.prefixes, result.selectors, result.origins) == ({"127.0.0.0/8": ids.HOST}, (), {})


def test_every_rule_is_found_by_its_cookie_and_every_name_is_collected(
    table: Endpoints, identities: Identities
) -> None:
    add(table, "one", "web")
    result = compiled(table, identities)
    assert {str(origin) for origin in result.origins.values()} == {"default/web egress[0]", "default/web egress[1]"}
    assert all(origin.cookie == cookie for cookie, origin in result.origins.items())
    assert [selector.label for selector in result.selectors] == ["fqdn:api.example.com"]


def test_the_same_again_gives_the_same_numbers(table: Endpoints, identities: Identities, tmp_path: Path) -> None:
    add(table, "one", "web", "198.51.100.70")
    first = compiled(table, identities)
    identities.retain(set(first.identities))
    again = compiled(table, Identities(tmp_path / "identities.json"))
    assert (again.identities, again.prefixes) == (first.identities, first.prefixes)
    assert again.endpoint_policies[EndpointId(1)].digest == first.endpoint_policies[EndpointId(1)].digest


def test_an_audited_workload_has_a_policy_of_its_own(table: Endpoints, identities: Identities) -> None:
    one, two = add(table, "one", "web"), add(table, "two", "web")
    table.put_back(replace(two, audit=True))
    result = compiled(table, identities)
    assert [result.endpoint_policies[endpoint.id].audit for endpoint in (one, two)] == [False, True]
    assert result.endpoint_tables[one.id] != result.endpoint_tables[two.id]
    assert result.endpoint_identities[one.id] == result.endpoint_identities[two.id]
    everybody = Compiler(identities, audit=True).compile(documents.load([Source("p.yaml", POLICY)]), table, ())
    assert all(everybody.endpoint_policies[endpoint.id].audit for endpoint in (one, two))


NAMED = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: named, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toEndpoints: [{matchLabels: {app: db}}]
    toPorts: [{ports: [{port: sql, protocol: TCP}]}]
"""


def test_ports_of_workloads_have_numbers_in_policies_and_an_abort_takes_them_back(
    table: Endpoints, identities: Identities
) -> None:
    compiler, policies = Compiler(identities), documents.load([Source("p.yaml", NAMED)])

    def numbers() -> list[int]:
        return sorted(
            port.first
            for rule in compiler.compile(policies, table, ()).endpoint_policies[web.id].rules
            for port in rule.ports
        )

    web = add(table, "one", "web")
    assert numbers() == []
    compiler.commit()
    sql = table.add(declarations.declare("sql", ["app=db"], ports=["sql=3306/TCP"]))
    assert numbers() == [3306]
    compiler.abort()
    table.add(declarations.declare("other", ["app=db"], ports=["sql=3307/TCP", "sql=1/UDP"]))
    assert numbers() == [3306, 3307]
    compiler.commit()
    table.remove(sql)
    assert numbers() == [3307]


def test_labels_that_do_not_count_are_in_no_identity(table: Endpoints, identities: Identities) -> None:
    declared = declarations.declare("one", ["app=web", "team=a", "pod-template-hash=1"])
    one = table.add(declared)
    found = Compiler(identities).compile((), table, ())
    namespace = "k8s:io.kubernetes.pod.namespace=default"
    assert found.identities[found.endpoint_identities[one.id]] == {"k8s:app=web", "k8s:team=a", namespace}
    found = Compiler(identities, label_rules=("k8s:app",)).compile((), table, ())
    assert found.identities[found.endpoint_identities[one.id]] == {"k8s:app=web", namespace}


def test_who_the_configuration_names_has_an_identity_and_the_networks_around_it_only_if_outside(
    table: Endpoints, identities: Identities
) -> None:
    around = gather(
        {"role": "gateway"},
        [
            OtherNode("db", ["198.51.100.70"], {"role": "db"}),
            OtherNode("plain", ["198.51.100.71"]),
            OtherNode("control", ["198.51.100.72"]),
        ],
        Entities(ingress=["198.51.100.73"], kube_apiserver=["198.51.100.72", "198.51.100.74", "192.0.2.1"]),
    )
    compiler = Compiler(identities, surroundings=around)
    web = add(table, "one", "web", "198.51.100.73")
    result = compiler.compile(documents.load([Source("web.yaml", POLICY)]), table, ("192.0.2.1",))
    database = result.prefixes["198.51.100.70/32"]
    assert ids.FIRST_CLUSTER_IDENTITY <= database < 1 << 16
    assert result.identities[database] == {"reserved:remote-node", "k8s:role=db"}
    assert result.prefixes["198.51.100.71/32"] == ids.REMOTE_NODE
    assert result.prefixes["198.51.100.72/32"] == ids.KUBE_APISERVER
    assert result.prefixes["198.51.100.73/32"] == result.endpoint_identities[web.id]
    assert result.identities[result.prefixes["198.51.100.74/32"]] == {
        "reserved:kube-apiserver",
        "reserved:world",
        *("cidr:198.51.100.0/24", "cidr:198.51.100.64/26", "cidr:198.51.100.74/32"),
    }
    assert result.identities[ids.HOST] == {"reserved:host", "reserved:kube-apiserver", "k8s:role=gateway"}


def test_a_workload_without_labels_is_init_and_denied_by_default(table: Endpoints, identities: Identities) -> None:
    bare = table.add(declarations.declare("bare", []))
    result = compiled(table, identities)
    assert result.endpoint_identities[bare.id] == ids.INIT
    policy = result.endpoint_policies[bare.id]
    assert (policy.enforce_egress, policy.enforce_ingress, policy.selected_by) == (True, True, ())
