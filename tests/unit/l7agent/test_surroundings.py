# SPDX-License-Identifier: Apache-2.0
"""Who is known by more than an address, as the configuration says it."""

import pytest

from l7agent import config
from l7agent.surroundings import Surroundings
from l7policy.capability import CONFIGURED

TEXT = """\
node: {labels: {role: gateway}}
nodes:
  - {name: db-1, addresses: [192.0.2.11, "2001:DB8::11"], labels: {role: db}}
  - {name: plain, addresses: [192.0.2.12]}
entities:
  kube-apiserver: [192.0.2.11, 203.0.113.6]
  ingress: [192.0.2.20]
  unmanaged: []
"""


def around(text: str) -> Surroundings:
    return config.parse("config.yaml", text).surroundings


def test_other_nodes_and_entities_are_known_by_each_of_their_addresses() -> None:
    found = around(TEXT)
    database = {"reserved:remote-node", "k8s:role=db"}
    assert found.places == {
        "192.0.2.11/32": database | {"reserved:kube-apiserver"},
        "2001:db8::11/128": database | {"reserved:kube-apiserver"},
        "192.0.2.12/32": {"reserved:remote-node"},
        "192.0.2.20/32": {"reserved:ingress"},
    }
    assert found.apiservers == {"203.0.113.6/32"}
    assert found.names["203.0.113.6/32"] == "reserved:kube-apiserver"
    assert found.names["2001:db8::11/128"] == "node/db-1"


def test_that_there_is_none_is_told_as_well_and_silence_is_not() -> None:
    assert around("").told == frozenset()
    assert around("nodes: []\n").told == {"nodes"}
    assert around(TEXT).told == CONFIGURED
    assert around("entities: {health: []}\n").told == frozenset()


def test_this_node_has_its_labels_and_says_whether_the_api_server_is_on_it() -> None:
    found = around(TEXT)
    assert found.host(["192.0.2.1", "127.0.0.0/8"]) == {"reserved:host", "k8s:role=gateway"}
    assert found.host(["203.0.113.6"]) == {"reserved:host", "k8s:role=gateway", "reserved:kube-apiserver"}
    # The same file on every node: this one may be in the list.
    assert "reserved:kube-apiserver" in found.host(["192.0.2.11"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nodes: [{name: a, addresses: [192.0.2.0/24]}]",
            "nodes[0].addresses: '192.0.2.0/24' is not the address of one",
        ),
        ("nodes: [{name: a, addresses: ['::ffff:192.0.2.1']}]", "is not the address of one host"),
        ("nodes: [{name: a, addresses: ['fe80::1%eth0']}]", "is not the address of one host"),
        ("nodes: [{name: a, addresses: []}]", "nodes[0]: a node needs a name and at least one address"),
        ("nodes: [{name: a, addresses: [192.0.2.1], labels: {'a b': c}}]", "nodes[0].labels: 'a b' is not a label key"),
        ("node: {labels: {a: 'b c'}}", "node.labels: 'b c' is not a label value"),
        (
            "nodes: [{name: a, addresses: [192.0.2.1]}, {name: b, addresses: [192.0.2.1]}]",
            "nodes[1].addresses: 192.0.2.1 is node/a already",
        ),
        (
            "entities: {ingress: [192.0.2.1], unmanaged: [192.0.2.1]}",
            "entities.unmanaged: 192.0.2.1 is reserved:ingress already",
        ),
        (
            "entities: {ingress: [192.0.2.1], kube-apiserver: [192.0.2.1]}",
            "entities.kube-apiserver: 192.0.2.1 is reserved:ingress already",
        ),
        ("entities: {kube_apiserver: []}", "did you mean kube-apiserver?"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(text: str, message: str) -> None:
    with pytest.raises(config.ConfigError) as refused:
        config.parse("config.yaml", text)
    assert message in str(refused.value)
