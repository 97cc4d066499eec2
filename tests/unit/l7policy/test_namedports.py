# SPDX-License-Identifier: Apache-2.0
import msgspec

from l7policy.model import Action, LabelPeer, NamedPort, Operator, Origin, Peer, Port, Requirement, Rule, WorkloadPeer
from l7policy.namedports import with_numbers
from l7policy.verdict import Direction, Protocol

TCP, UDP, ANY = Protocol.TCP, Protocol.UDP, Protocol.ANY
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS
WEB, API, DB = frozenset({"k8s:app=web"}), frozenset({"k8s:app=api"}), frozenset({"k8s:app=db"})
CLUSTER = {
    WEB: (NamedPort("http", TCP, 8080), NamedPort("dns", UDP, 53)),
    API: (NamedPort("http", TCP, 9000),),
    DB: (NamedPort("http", TCP, 8080), NamedPort("dns", TCP, 5353)),
}
HTTP = Port(TCP, name="http")


def rule(direction: Direction, *ports: Port, peers: tuple[Peer, ...] | None = None) -> Rule:
    return Rule(direction, Origin("p", "r"), peers, ports)


def workload(*labels: str) -> WorkloadPeer:
    return WorkloadPeer(labels)


def test_a_rule_without_names_stays_as_it_is() -> None:
    rules = (rule(EGRESS), rule(INGRESS, Port(TCP, 80, 80)))
    assert with_numbers(rules, (), CLUSTER) == rules


def test_on_ingress_the_endpoint_itself_says_what_the_name_means() -> None:
    (found,) = with_numbers([rule(INGRESS, Port(TCP, 80, 80), HTTP)], CLUSTER[API], CLUSTER)
    assert found.ports == (Port(TCP, 80, 80), Port(TCP, 9000, 9000))
    assert found.peers is None


def test_on_egress_each_destination_says_what_the_name_means() -> None:
    found = with_numbers([rule(EGRESS, HTTP)], (), CLUSTER)
    assert [(one.ports, one.peers) for one in found] == [
        ((Port(TCP, 8080, 8080),), (workload("k8s:app=db"), workload("k8s:app=web"))),
        ((Port(TCP, 9000, 9000),), (workload("k8s:app=api"),)),
    ]


def test_only_destinations_that_the_rule_means_are_asked() -> None:
    web = LabelPeer((Requirement("k8s:app", Operator.IN, ("web",)),))
    (found,) = with_numbers([rule(EGRESS, HTTP, peers=(web,))], (), CLUSTER)
    assert found.peers == (workload("k8s:app=web"),)
    assert with_numbers([rule(EGRESS, HTTP, peers=())], (), CLUSTER) == ()


def test_numbers_beside_the_name_keep_their_peers() -> None:
    plain, *named = with_numbers([rule(EGRESS, HTTP, Port(TCP, 443, 443))], (), CLUSTER)
    assert (plain.ports, plain.peers) == ((Port(TCP, 443, 443),), None)
    assert len(named) == 2


def test_a_name_counts_for_its_own_protocol() -> None:
    assert [one.ports for one in with_numbers([rule(EGRESS, Port(UDP, name="dns"))], (), CLUSTER)] == [
        (Port(UDP, 53, 53),)
    ]
    assert [one.ports for one in with_numbers([rule(EGRESS, Port(ANY, name="dns"))], (), CLUSTER)] == [
        (Port(TCP, 5353, 5353),),
        (Port(UDP, 53, 53),),
    ]


def test_a_name_that_nobody_has_leaves_no_rule_rather_than_one_for_every_port() -> None:
    nobody = Port(TCP, name="nobody")
    deny = msgspec.structs.replace(rule(INGRESS, nobody), action=Action.DENY)
    assert with_numbers([rule(EGRESS, nobody), rule(INGRESS, nobody), deny], CLUSTER[WEB], CLUSTER) == ()
