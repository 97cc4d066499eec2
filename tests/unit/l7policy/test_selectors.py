# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.model import CidrPeer, EntityPeer, FqdnPeer, LabelPeer, Operator, Peer, Requirement
from l7policy.selectors import ENTITIES, matches, matches_any, selects

WEB = frozenset({"k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "k8s:canary"})
WORLD = frozenset({"reserved:world"})
HOST = frozenset({"reserved:host"})
OUTSIDE = frozenset({"reserved:world", "cidr:198.51.100.0/24", "cidr:198.51.100.7/32"})
WIDE = frozenset({"reserved:world", "cidr:198.51.100.0/24"})
EVERY_V4 = frozenset({"reserved:world", "cidr:0.0.0.0/0"})
NAMED = frozenset({"reserved:world", "cidr:198.51.100.0/24", "fqdn:*.example.com"})
API_SERVER = frozenset({"reserved:world", "reserved:kube-apiserver"})
INIT = frozenset({"reserved:init"})
EVERYBODY = (WEB, WORLD, HOST, OUTSIDE, WIDE, EVERY_V4, NAMED, API_SERVER, INIT, frozenset())


def need(key: str, operator: Operator, *values: str) -> LabelPeer:
    return LabelPeer((Requirement(key, operator, values),))


IN, NOT_IN, EXISTS, ABSENT = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.DOES_NOT_EXIST


@pytest.mark.parametrize(
    ("peer", "selected"),
    [
        (LabelPeer(), {WEB}),
        (need("k8s:app", IN, "web", "db"), {WEB}),
        (need("any:app", IN, "web"), {WEB}),
        (need("container:app", IN, "web"), set()),
        (need("k8s:app", IN, "db"), set()),
        (need("k8s:app", NOT_IN, "db"), {WEB}),
        (need("k8s:app", NOT_IN, "web"), set()),
        (need("k8s:team", NOT_IN, "x"), {WEB}),
        (need("k8s:team", ABSENT), {WEB}),
        (need("k8s:app", ABSENT), set()),
        (need("any:canary", EXISTS), {WEB}),
        (need("any:canary", IN, ""), {WEB}),
        (need("any:host", EXISTS), set()),
        (need("any:example.com", EXISTS), set()),
        (need("reserved:host", EXISTS), {HOST}),
        (need("reserved:init", EXISTS), {INIT}),
        (CidrPeer("198.51.100.0/24"), {OUTSIDE, WIDE, NAMED}),
        (CidrPeer("198.51.100.0/24", ("198.51.100.7/32",)), {WIDE, NAMED}),
        (CidrPeer("198.51.100.7/32"), {OUTSIDE}),
        (CidrPeer("0.0.0.0/0"), {EVERY_V4}),
        (FqdnPeer(match_pattern="*.example.com."), {NAMED}),
        (FqdnPeer(match_name="www.example.com."), set()),
        (EntityPeer("all"), set(EVERYBODY)),
        (EntityPeer("none"), set()),
        (EntityPeer("world"), {WORLD, OUTSIDE, WIDE, EVERY_V4, NAMED, API_SERVER}),
        (EntityPeer("world-ipv4"), {EVERY_V4}),
        (EntityPeer("world-ipv6"), set()),
        (EntityPeer("host"), {HOST}),
        (EntityPeer("cluster"), {WEB, HOST, INIT, API_SERVER}),
        (EntityPeer("kube-apiserver"), {API_SERVER}),
        (EntityPeer("init"), {INIT}),
        (EntityPeer("remote-node"), set()),
    ],
)
def test_a_peer_selects_identities_by_their_labels(peer: Peer, selected: set[frozenset[str]]) -> None:
    assert {labels for labels in EVERYBODY if matches(peer, labels)} == selected


def test_every_requirement_must_be_met() -> None:
    peer = LabelPeer((Requirement("k8s:app", IN, ("web",)), Requirement("k8s:canary", ABSENT)))
    assert not matches(peer, WEB)
    assert matches(peer, WEB - {"k8s:canary"})


def test_a_value_may_hold_an_equals_sign() -> None:
    assert matches(need("k8s:v", IN, "a=b"), frozenset({"k8s:v=a=b"}))


def test_a_subject_without_requirements_selects_an_endpoint_without_labels() -> None:
    assert selects((), frozenset())
    assert not selects((Requirement("k8s:app", EXISTS),), frozenset())


def test_no_peers_at_all_is_everybody_and_an_empty_list_is_nobody() -> None:
    assert all(matches_any(None, labels) for labels in EVERYBODY)
    assert not any(matches_any((), labels) for labels in EVERYBODY)


@pytest.mark.parametrize("entity", sorted(ENTITIES))
def test_every_known_entity_can_be_matched(entity: str) -> None:
    assert isinstance(matches(EntityPeer(entity), WORLD), bool)


def test_an_unknown_entity_is_a_bug_and_not_a_rule_turned_off() -> None:
    with pytest.raises(ValueError, match="no such entity: 'wrold'"):
        matches(EntityPeer("wrold"), WORLD)
