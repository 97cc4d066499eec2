# SPDX-License-Identifier: Apache-2.0
"""What is written down about a query."""

import dns.message

from l7dns import record
from l7dns.exchange import Query
from l7dns.message import Question
from l7policy.flowpolicy import L7Decision
from l7policy.verdict import Direction, Protocol, Reason, Verdict


class Audited:
    """Refuses every name, and lets it pass."""

    def dns(self, _name: str) -> L7Decision:
        return L7Decision(
            True, Reason.DNS_DENIED, "shop/dns egress[0]", ("shop/dns",), Direction.EGRESS, 7, audited=True
        )


def test_an_audited_query_is_written_with_its_reason_before_there_is_an_answer() -> None:
    query = Query(("192.0.2.2", 40000), ("198.51.100.53", 53), Protocol.UDP, None, lambda *_: None)
    step = query.transaction.begin(dns.message.make_query("secret.example.net.", "AAAA").to_wire(), Audited())
    assert isinstance(step, Question)
    flow = record.audited(1.5, query, Reason.DNS_DENIED)
    assert (flow.verdict, flow.reason, flow.time, flow.endpoint) == (Verdict.AUDIT, Reason.DNS_DENIED, 1.5, 7)
    assert (flow.rule, flow.policies) == ("shop/dns egress[0]", ("shop/dns",))
    assert flow.dns is not None
    assert (flow.dns.query, flow.dns.qtype, flow.dns.rcode) == ("secret.example.net", "AAAA", "")
