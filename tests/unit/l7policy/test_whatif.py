# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.whatif."""

from l7policy import documents, question
from l7policy.cluster import Cluster
from l7policy.policydoc import Source
from l7policy.whatif import differences

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toCIDR: [192.0.2.0/24]
"""


def ask(destination: str) -> question.Question:
    return question.ask(question.side("app=web", Cluster()), question.side(destination, Cluster()), "80")


def test_only_what_changes_is_told_once_with_its_count() -> None:
    before = documents.load([Source("p.yaml", POLICY)])
    after = documents.load([Source("p.yaml", POLICY.replace("192.0.2.0", "198.51.100.0"))])
    questions = [ask("192.0.2.1"), ask("198.51.100.1"), ask("203.0.113.1"), ask("192.0.2.1")]
    found = differences(before, after, questions)
    assert [(one.question.destination.text, one.before.verdict, one.after.verdict, one.count) for one in found] == [
        ("192.0.2.1", "FORWARDED", "DROPPED", 2),
        ("198.51.100.1", "DROPPED", "FORWARDED", 1),
    ]
    assert differences(before, before, questions) == ()


def test_another_reason_is_a_change_too() -> None:
    before = documents.load([Source("p.yaml", POLICY)])
    deny = POLICY + "  egressDeny:\n    - toCIDR: [203.0.113.0/24]\n"
    (found,) = differences(before, documents.load([Source("p.yaml", deny)]), [ask("203.0.113.1")])
    assert (found.before.reason, found.after.reason) == ("POLICY_DENIED", "POLICY_DENY")
