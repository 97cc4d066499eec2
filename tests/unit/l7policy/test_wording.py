# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.model import (
    Action,
    CidrPeer,
    EntityPeer,
    FqdnPeer,
    HeaderMatch,
    HttpRule,
    LabelPeer,
    Mismatch,
    NodePeer,
    Operator,
    Origin,
    Port,
    Requirement,
    Rule,
    Secret,
    Tier,
    WorkloadPeer,
)
from l7policy.verdict import Direction, Protocol
from l7policy.wording import describe

EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS
HERE = Origin("p", "r")
LABELS = LabelPeer(
    (
        Requirement("any:app", Operator.IN, ("web",)),
        Requirement("k8s:tier", Operator.IN, ("a", "b")),
        Requirement("reserved:host", Operator.EXISTS),
        Requirement("k8s:old", Operator.DOES_NOT_EXIST),
    )
)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(EGRESS, HERE), "allow everything to anyone"),
        (Rule(INGRESS, HERE, peers=(), action=Action.DENY), "deny everything from nobody"),
        (Rule(EGRESS, HERE, peers=(EntityPeer("world"), LabelPeer())), "allow everything to world, any workload"),
        (
            Rule(INGRESS, HERE, peers=(LABELS,)),
            "allow everything from app=web and k8s:tier in (a b) and reserved:host exists and no k8s:old",
        ),
        (
            Rule(EGRESS, HERE, peers=(CidrPeer("198.51.100.0/24", ("198.51.100.7/32",)),)),
            "allow everything to 198.51.100.0/24 except 198.51.100.7/32",
        ),
        (
            Rule(
                EGRESS,
                HERE,
                peers=(FqdnPeer(match_pattern="*.example.com."),),
                ports=(Port(Protocol.TCP, 80, 80), Port(Protocol.UDP, 1, 9), Port(), Port(Protocol.ICMP, 8, 8)),
            ),
            "allow TCP 80, UDP 1-9, ANY any port, ICMP type 8 to fqdn:*.example.com",
        ),
        (
            Rule(
                EGRESS,
                HERE,
                ports=(Port(Protocol.TCP, 80, 80),),
                http=(HttpRule("GET", "/a", "h", (HeaderMatch("X"), HeaderMatch("Y", "1"))), HttpRule()),
            ),
            "allow TCP 80 to anyone with HTTP GET /a host h X Y: 1, any method any path",
        ),
        (
            Rule(EGRESS, HERE, peers=(LabelPeer((Requirement("k8s:env", Operator.NOT_IN, ("dev",)),)),)),
            "allow everything to k8s:env not in (dev)",
        ),
        (Rule(EGRESS, HERE, http=()), "allow everything to anyone with HTTP nothing"),
        (
            Rule(EGRESS, HERE, dns=(FqdnPeer(match_pattern="*"), FqdnPeer(match_name="a.example.com."))),
            "allow everything to anyone for names *, a.example.com",
        ),
        (
            Rule(EGRESS, HERE, action=Action.PASS, tier=Tier.ADMIN, priority=5003),
            "pass everything to anyone (tier admin, priority 5)",
        ),
        (Rule(EGRESS, HERE, tier=Tier.REST), "allow everything to anyone"),
        (
            Rule(EGRESS, HERE, ports=(Port(Protocol.TCP, name="web"), Port(Protocol.ICMP, 8, 8))),
            "allow TCP port named web, ICMP type 8 to anyone",
        ),
        (
            Rule(EGRESS, HERE, peers=(NodePeer(), NodePeer((Requirement("any:role", Operator.IN, ("db",)),)))),
            "allow everything to nodes, nodes with role=db",
        ),
        (
            Rule(EGRESS, HERE, peers=(WorkloadPeer(("k8s:app=web", "k8s:canary")),)),
            "allow everything to the workload k8s:app=web k8s:canary",
        ),
        (
            Rule(EGRESS, HERE, server_names=("a.example", "*.example.com")),
            "allow everything to anyone with TLS for a.example, *.example.com",
        ),
        (
            Rule(
                EGRESS,
                HERE,
                http=(
                    HttpRule(
                        headers=(
                            HeaderMatch("X-Token", None, Secret("ns", "token"), Mismatch.REPLACE),
                            HeaderMatch("X-Team", "shop", None, Mismatch.LOG),
                        )
                    ),
                ),
            ),
            (
                "allow everything to anyone with HTTP any method any path X-Token: secret ns/token or REPLACE"
                " X-Team: shop or LOG"
            ),
        ),
    ],
)
def test_a_rule_is_one_line(rule: Rule, words: str) -> None:
    assert describe(rule) == words
