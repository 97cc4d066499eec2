# SPDX-License-Identifier: Apache-2.0
"""What the kernel and the proxies tell, completed with names, as it comes into the audit log."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l7agent import auditing, wire
from l7agent import endpoints as declarations
from l7agent.auditing import Auditing
from l7agent.endpoints import Endpoints
from l7agent.workload import Attachment
from l7bpf.layouts import Event
from l7observe import flowbytes
from l7observe.audit import AuditLog
from l7observe.flow import DnsSummary, Flow, FlowPeer, HttpSummary
from l7observe.flowfilter import FlowFilter
from l7observe.hub import Hub
from l7policy.ids import EndpointId, PolicyId
from l7policy.model import EndpointPolicy, Origin
from l7policy.verdict import Direction, Protocol, Reason, Verdict

LABELS = {256: ("k8s:app=web",), 2: ("reserved:world",)}
DENY = Origin("shop/web", "egressDeny[0]")
SELECTED = EndpointPolicy(enforce_egress=True, selected_by=("shop/web", "shop/more"))


class Bench:
    """Auditing over a real log, with one workload."""

    def __init__(self, folder: Path) -> None:
        self.log = AuditLog(folder / "audit.jsonl", node="node-1")
        endpoints = Endpoints(folder / "endpoints.json")
        declared = declarations.declare("web", ["app=web"])
        endpoints.located(endpoints.add(declared), Attachment("lxc-web", 7, ("203.0.113.11",), 1))
        self.hub = Hub()
        self.auditing = Auditing(self.log, self.hub, endpoints, lambda identity: LABELS.get(identity, ()), lambda _: 2)

    def learn(self) -> None:
        self.auditing.learn({DENY.cookie: DENY}, {PolicyId(5): SELECTED}, {EndpointId(1): SELECTED})

    def records(self) -> list[dict[str, Any]]:
        assert self.log.flush()
        return [json.loads(line) for line in self.log.path.read_text().splitlines()] if self.log.path.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.learn()
    yield made
    made.log.close()


@pytest.fixture
def event() -> Callable[..., Event]:
    """A dropped packet of the workload."""

    def make(**values: Any) -> Event:
        given: dict[str, Any] = {
            "time_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            "cookie": 0,
            "endpoint_id": 1,
            "source_identity": 256,
            "destination_identity": 2,
            "policy_id": 5,
            "revision": 3,
            "length": 60,
            "source": "203.0.113.11",
            "destination": "198.51.100.9",
            "source_port": 40000,
            "destination_port": 443,
            "protocol": 6,
            "family": 4,
            "direction": 0,
            "verdict": int(Verdict.DROPPED),
            "reason": int(Reason.POLICY_DENIED),
        }
        return Event(**(given | values))

    return make


def test_a_dropped_packet_names_the_workload_and_the_policies_that_allow_too_little(
    bench: Bench, event: Callable[..., Event]
) -> None:
    began = time.time()
    bench.auditing.kernel_events([event()])
    (record,) = bench.records()
    assert record["endpoint"] == {"id": 1, "name": "web", "labels": ["k8s:app=web"]}
    assert (record["layer"], record["reason"], record["verdict"]) == ("packet", "POLICY_DENIED", "DROPPED")
    assert (record["direction"], record["protocol"]) == ("egress", "TCP")
    assert record["source"] == {
        "address": "203.0.113.11",
        "port": 40000,
        "identity": 256,
        "labels": ["k8s:app=web"],
        "name": "web",
    }
    assert record["destination"]["labels"] == ["reserved:world"]
    assert (record["rule"], record["policies"]) == ("", ["shop/web", "shop/more"])
    assert (record["revision"], record["node"]) == (3, "node-1")
    assert record["time"][:10] == time.strftime("%Y-%m-%d", time.gmtime(began))


def test_a_rule_is_named_by_its_cookie(bench: Bench, event: Callable[..., Event]) -> None:
    bench.auditing.kernel_events([event(cookie=DENY.cookie, reason=int(Reason.POLICY_DENY))])
    assert bench.records()[0]["rule"] == "shop/web egressDeny[0]"


def test_an_audited_packet_is_a_policy_verdict_and_in_the_log(bench: Bench, event: Callable[..., Event]) -> None:
    bench.auditing.kernel_events([event(verdict=Verdict.AUDIT, reason=Reason.POLICY_DENY, cookie=DENY.cookie)])
    (record,) = bench.records()
    assert (record["verdict"], record["type"], record["reason"]) == ("AUDIT", "policy-verdict", "POLICY_DENY")
    assert record["rule"] == str(DENY)


def test_an_event_from_before_this_agent_names_what_selects_the_endpoint_now(
    bench: Bench, event: Callable[..., Event]
) -> None:
    bench.auditing.kernel_events([event(policy_id=4, revision=2)])
    (record,) = bench.records()
    assert (record["policies"], record["revision"]) == (["shop/web", "shop/more"], 2)


def test_names_of_older_revisions_are_remembered(bench: Bench, event: Callable[..., Event]) -> None:
    bench.auditing.learn({}, {PolicyId(6): EndpointPolicy(selected_by=("shop/new",))}, {})
    bench.auditing.kernel_events([event(cookie=DENY.cookie)])
    assert (bench.records()[0]["rule"], bench.records()[0]["policies"]) == (str(DENY), ["shop/web", "shop/more"])


def test_what_is_remembered_has_an_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "REMEMBERED_RULES", 10)
    origins = [Origin(f"shop/{number}", "egress[0]") for number in range(30)]
    for origin in origins:
        bench.auditing.learn({origin.cookie: origin}, {}, {})
    assert [bool(bench.auditing.origin(origin.cookie)) for origin in origins] == [False] * 20 + [True] * 10


@pytest.mark.parametrize(
    "values",
    [
        {"endpoint_id": 0, "policy_id": 0, "reason": int(Reason.ENDPOINT_UNKNOWN), "source": "", "destination": ""},
        {"endpoint_id": 99},
        {"reason": 250},
        {"protocol": 250},
        {"direction": 1, "source": "198.51.100.9", "destination": "203.0.113.11"},
    ],
)
def test_an_event_with_what_nobody_knows_is_recorded_all_the_same(
    bench: Bench, event: Callable[..., Event], values: dict[str, Any]
) -> None:
    bench.auditing.kernel_events([event(**values)])
    assert len(bench.records()) == 1


def flow(verdict: Verdict, **values: Any) -> Flow:
    return Flow(
        time.time(),
        "http",
        verdict,
        Reason.HTTP_DENIED,
        Direction.EGRESS,
        Protocol.TCP,
        FlowPeer("203.0.113.11", 40000, 256),
        FlowPeer("198.51.100.9", 80, 2),
        endpoint=1,
        **values,
    )


def test_of_the_proxies_flows_only_denies_are_recorded(bench: Bench) -> None:
    denied = flow(Verdict.DROPPED, http=HttpSummary("PUT", "a", "/x", 403))
    bench.auditing.flows(wire.Flows([denied], 0, flowbytes.batch([flowbytes.row(flow(Verdict.FORWARDED))]), 1))
    (record,) = bench.records()
    assert record["http"] == {"method": "PUT", "host": "a", "path": "/x", "status": 403}
    assert record["source"]["name"] == "web"
    assert record["policies"] == ["shop/web", "shop/more"], "the proxy does not know them for what is not HTTP"


def test_what_a_proxy_knows_is_not_replaced(bench: Bench) -> None:
    values = {"policies": ("shop/other",), "rule": "shop/other egress[0]", "dns": DnsSummary("a", "A", "REFUSED")}
    bench.auditing.flows(wire.Flows([flow(Verdict.DROPPED, **values)], 0))
    (record,) = bench.records()
    assert (record["policies"], record["rule"]) == (["shop/other"], "shop/other egress[0]")
    assert record["dns"] == {"query": "a", "qtype": "A", "rcode": "REFUSED"}


def test_what_passed_is_kept_unseen_and_has_its_names_when_somebody_asks(bench: Bench) -> None:
    bench.auditing.flows(wire.Flows([], 0, flowbytes.batch([flowbytes.row(flow(Verdict.FORWARDED))]), 1))
    (kept,) = bench.hub.recent(FlowFilter(frozenset()), 5)
    assert (kept.verdict, kept.source.name) == (Verdict.FORWARDED, "web")


def test_records_that_nobody_can_read_are_lost_and_said_and_harm_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.auditing.flows(wire.Flows([], 0, flowbytes.batch([flowbytes.row(flow(Verdict.FORWARDED))]), 1))
    bench.auditing.flows(wire.Flows([], 0, b"\x91\x01", 1))
    assert [one.verdict for one in bench.hub.recent(FlowFilter(frozenset()), 5)] == [Verdict.FORWARDED]
    assert "another version" in caplog.text


def test_who_listens_gets_denied_and_passed_in_the_order_of_time(bench: Bench) -> None:
    early, late = flow(Verdict.FORWARDED), flow(Verdict.DROPPED)

    async def scene() -> None:
        subscription = bench.hub.subscribe(FlowFilter(frozenset()))
        bench.auditing.flows(wire.Flows([late], 0, flowbytes.batch([flowbytes.row(early)]), 1))
        assert [one.verdict for one in await subscription.batch()] == [Verdict.FORWARDED, Verdict.DROPPED]

    asyncio.run(scene())
