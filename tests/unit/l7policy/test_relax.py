# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.relax: which changes are tried. Which of them is told is tested with l7policy.nearest."""

from l7policy import question, relax
from l7policy.cluster import Cluster
from l7policy.model import (
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    HeaderMatch,
    HttpRule,
    LabelPeer,
    Origin,
    Port,
    Rule,
    Secret,
)
from l7policy.verdict import Direction, Protocol

ORIGIN = Origin("default/web", "egress[0]", "web.yaml", 7)
WORLD = frozenset({"reserved:world"})


def ask(destination: str, port: str = "80/TCP") -> question.Question:
    return question.ask(question.side("app=a", Cluster()), question.side(destination, Cluster()), port)


def test_a_rule_that_denies_or_that_no_document_holds_is_left_alone() -> None:
    builtin = Rule(Direction.EGRESS, Origin("reserved/allow-all", "egress"), ports=(Port(Protocol.TCP, 1, 1),))
    assert list(relax.cover(builtin, WORLD, ask("192.0.2.1"))) == []


def test_kinds_of_peers_are_not_mixed_in_one_rule() -> None:
    rule = Rule(Direction.EGRESS, ORIGIN, peers=(EntityPeer("host"),))
    assert list(relax.cover(rule, WORLD, ask("192.0.2.1"))) == []


def test_a_peer_is_named_as_the_other_end_was() -> None:
    question_of = {text: ask(text) for text in ("192.0.2.1", "fqdn:a.example", "reserved:world", "reserved:host")}
    found = {
        text: relax.element(Direction.EGRESS, frozenset({"reserved:world"}), asked)
        for text, asked in question_of.items()
    }
    assert {text: value[0] for text, value in found.items() if value} == {
        "192.0.2.1": CidrPeer("192.0.2.1/32"),
        "fqdn:a.example": FqdnPeer(match_name="a.example."),
        "reserved:world": EntityPeer("world"),
        "reserved:host": EntityPeer("host"),
    }


def test_a_workload_is_named_by_the_keys_that_the_rule_uses() -> None:
    labels = frozenset({"k8s:app=db", "k8s:role=backup", "k8s:io.kubernetes.pod.namespace=default"})
    found = relax.element(Direction.EGRESS, labels, ask("app=db,role=backup"))
    assert found is not None
    assert found[1] == "toEndpoints {app=db, io.kubernetes.pod.namespace=default, role=backup}"
    peer = LabelPeer((found[0].requirements[0],)) if isinstance(found[0], LabelPeer) else None
    assert peer is not None
    like = Rule(Direction.EGRESS, ORIGIN, peers=(peer,))
    again = relax.element(Direction.EGRESS, labels, ask("app=db,role=backup"), like)
    assert again is not None
    assert again[1] == "toEndpoints {app=db, io.kubernetes.pod.namespace=default}"


def test_one_http_rule_more_is_always_tried_and_is_literal() -> None:
    rule = Rule(Direction.EGRESS, ORIGIN, http=(HttpRule(host="a"),))
    changes = list(relax.http(rule, question.request("GET /x.y?z", "b")))
    assert [change.after.http for change in changes] == [
        (HttpRule(host="a|b"),),
        (HttpRule(host="a"), HttpRule(method="GET", path=r"/x\.y\?z")),
    ]


def test_a_header_is_to_be_sent_but_for_a_secret_that_is_not_known() -> None:
    given = (HeaderMatch("X", "1"), HeaderMatch("Y", secret=Secret("ns", "token")), HeaderMatch("Z"))
    rule = Rule(Direction.EGRESS, ORIGIN, http=(HttpRule(headers=given),))
    change = next(relax.http(rule, question.request("GET /", "", ["Z: 2"])))
    assert change.after.http == (HttpRule(headers=(HeaderMatch("Z"),)),)
    assert 'send the header "X: 1", or do not ask for it' in change.text
    assert "do not ask for the header Y (the secret ns/token is not known here)" in change.text


def test_one_server_name_more_is_tried_if_it_is_one() -> None:
    rule = Rule(Direction.EGRESS, ORIGIN, server_names=("a.example",))
    (change,) = relax.server_names(rule, "B.example")
    assert change.after.server_names == ("a.example", "b.example")
    assert list(relax.server_names(rule, "b.example.")) == []


def test_one_name_more_is_tried() -> None:
    (change,) = relax.dns(Rule(Direction.EGRESS, ORIGIN, dns=()), "A.example")
    assert change.after.dns == (FqdnPeer(match_name="a.example."),)
