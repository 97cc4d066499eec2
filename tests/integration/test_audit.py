# SPDX-License-Identifier: Apache-2.0
"""Every deny, at every layer, is one record that names the rule, or the policies that allow too little."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate, Json
from l7lab.process import wait_until
from l7lab.scenario import API, API_V4
from l7lab.topology import DENIED_IN_CIDR, RESOLVER_V4, UNNAMED

BATCH = ["networkpolicy:shop/batch-closed", "shop/batch-egress"]
FRONTEND = ["shop/frontend-egress"]
BACKEND = ["shop/backend-ingress"]
WORLD = ["reserved:world"]


@dataclass(frozen=True)
class Deny:
    """What is tried, and the one record it leaves."""

    attempt: Callable[[Lab], object]
    layer: str
    reason: str
    endpoint: str
    direction: str
    source: str
    destination: str
    port: int
    protocol: str = "UDP"
    rule: str = ""
    policies: Sequence[str] = ()
    destination_labels: Sequence[str] | None = None
    more: dict[str, Any] = field(default_factory=dict)


def datagram(lab: Lab, of: str, address: str, port: int, source: str = "") -> object:
    namespace = getattr(lab, of).namespace
    return traffic.udp(namespace, address, port, b"x", source=source, timeout=0.1)


DENIES = {
    "a packet that no rule allows": Deny(
        lambda lab: datagram(lab, "batch", UNNAMED, 4001),
        "packet", "POLICY_DENIED", "batch", "egress", "batch", UNNAMED, 4001,
        policies=BATCH, destination_labels=WORLD,
    ),
    "the same over IPv6": Deny(
        lambda lab: datagram(lab, "batch", "2001:db8:100::3", 4002),
        "packet", "POLICY_DENIED", "batch", "egress", "batch-v6", "2001:db8:100::3", 4002,
        policies=BATCH, destination_labels=WORLD,
    ),
    "a packet that a deny rule forbids": Deny(
        lambda lab: datagram(lab, "batch", DENIED_IN_CIDR, 4003),
        "packet", "POLICY_DENY", "batch", "egress", "batch", DENIED_IN_CIDR, 4003,
        rule="shop/batch-egress egressDeny[0]", policies=BATCH,
    ),
    "a packet to a neighbour that its own policy does not allow": Deny(
        lambda lab: datagram(lab, "batch", lab.backend.v4, 4004),
        "packet", "POLICY_DENIED", "batch", "egress", "batch", "backend", 4004, policies=BATCH,
    ),
    "a packet from outside that the destination's policy does not allow": Deny(
        lambda lab: datagram(lab, "outside", lab.backend.v4, 4005),
        "packet", "POLICY_DENIED", "backend", "ingress", RESOLVER_V4, "backend", 4005, policies=BACKEND,
    ),
    "a forged source": Deny(
        lambda lab: datagram(lab, "frontend", RESOLVER_V4, 4006, source=lab.batch.v4),
        "packet", "INVALID_SOURCE_IP", "frontend", "egress", "batch", RESOLVER_V4, 4006, policies=FRONTEND,
    ),
    "a request": Deny(
        lambda lab: traffic.http(lab.frontend.namespace, f"{API}/admin?x=1", address=API_V4, method="PUT"),
        "http", "HTTP_DENIED", "frontend", "egress", "frontend", API_V4, 80, "TCP",
        rule="shop/frontend-egress egress[1].toPorts[0]", policies=FRONTEND,
        more={"http": {"method": "PUT", "host": "api.example.com", "path": "/admin?x=1", "status": 403,
                       "protocol": "HTTP/1.1"}},
    ),
    "a request at the other workload's door": Deny(
        lambda lab: traffic.http(lab.frontend.namespace, "http://backend:8080/x", address=lab.backend.v4),
        "http", "HTTP_DENIED", "backend", "ingress", "frontend", "backend", 8080, "TCP",
        rule="shop/backend-ingress ingress[0].toPorts[0]", policies=BACKEND,
        more={"http": {"method": "GET", "host": "backend:8080", "path": "/x", "status": 403,
                       "protocol": "HTTP/1.1"}},
    ),
    "bytes that are not HTTP": Deny(
        lambda lab: traffic.tcp(lab.frontend.namespace, API_V4, 80, b"SSH-2.0-x\r\n\r\n"),
        "http", "HTTP_MALFORMED", "frontend", "egress", "frontend", API_V4, 80, "TCP",
        rule="shop/frontend-egress egress[1].toPorts[0]", policies=FRONTEND,
    ),
    "a name": Deny(
        lambda lab: traffic.dns(lab.frontend.namespace, "Tracker.example.net", "AAAA"),
        "dns", "DNS_DENIED", "frontend", "egress", "frontend", RESOLVER_V4, 53,
        rule="shop/frontend-egress egress[0].toPorts[0]", policies=FRONTEND,
        more={"dns": {"query": "tracker.example.net", "qtype": "AAAA", "rcode": "REFUSED"}},
    ),
    "a name over TCP": Deny(
        lambda lab: traffic.dns(lab.frontend.namespace, "tracker.example.net", tcp=True),
        "dns", "DNS_DENIED", "frontend", "egress", "frontend", RESOLVER_V4, 53, "TCP",
        rule="shop/frontend-egress egress[0].toPorts[0]", policies=FRONTEND,
        more={"dns": {"query": "tracker.example.net", "qtype": "A", "rcode": "REFUSED"}},
    ),
}  # fmt: skip


def address_of(lab: Lab, word: str) -> str:
    name, _, six = word.partition("-")
    workload = {one.name: one for one in lab.workloads}.get(name)
    return word if workload is None else workload.v6 if six else workload.v4


def concerns(lab: Lab, deny: Deny, record: Json) -> bool:
    """Whether a record is about this attempt and not about what else moves in the lab."""
    wanted = (deny.layer, address_of(lab, deny.source), address_of(lab, deny.destination), deny.port)
    source, destination = record["source"], record["destination"]
    return (record["layer"], source["address"], destination["address"], destination["port"]) == wanted


@pytest.fixture(scope="module", autouse=True)
def learnt(gate: Gate) -> None:
    assert traffic.dns(gate.lab.frontend.namespace, "api.example.com").addresses


@pytest.mark.parametrize("what", DENIES)
def test_each_deny_is_one_record_that_says_who_what_and_why(gate: Gate, what: str) -> None:
    lab, deny = gate.lab, DENIES[what]
    mark, began = len(gate.audit()), time.time()
    deny.attempt(lab)
    record = gate.wait_audit(lambda one: concerns(lab, deny, one), what, mark=mark)
    time.sleep(0.15)  # for a second one, which must not come
    assert [one for one in gate.audit()[mark:] if concerns(lab, deny, one)] == [record]

    endpoint = next(one for one in gate.endpoints() if one["name"] == deny.endpoint)
    assert record["endpoint"] == {"id": endpoint["id"], "name": deny.endpoint, "labels": endpoint["labels"]}
    assert (record["reason"], record["direction"], record["protocol"]) == (deny.reason, deny.direction, deny.protocol)
    assert record["reason_text"]
    assert record["verdict"] == "DROPPED"
    assert (record["rule"], sorted(record["policies"])) == (deny.rule, sorted(deny.policies))
    if deny.reason != "INVALID_SOURCE_IP":
        assert record["revision"] == gate.status()["revision"]
        own = record["source" if deny.direction == "egress" else "destination"]
        assert (own["identity"], own["labels"], own["name"]) == (
            endpoint["identity"],
            endpoint["labels"],
            deny.endpoint,
        )
    if deny.destination_labels is not None:
        assert record["destination"]["labels"] == deny.destination_labels
        assert record["destination"]["identity"] == 2
    assert {key: record[key] for key in deny.more} == deny.more
    assert ("http" in record, "dns" in record) == (deny.layer == "http", deny.layer == "dns")
    seconds = gate.must("audit", "tail", "-n", "1", "-o", "json")
    assert json.loads(seconds.out.splitlines()[-1])["time"] >= record["time"]
    assert abs(parse(record["time"]) - began) < 5


def parse(text: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def test_what_was_denied_while_the_agent_was_dead_is_recorded_when_it_is_back(gate: Gate) -> None:
    lab = gate.lab
    denies = [DENIES[what] for what in ("a packet that a deny rule forbids", "a request", "a name")]
    denies.append(DENIES["a packet that no rule allows"])
    mark = len(gate.audit())
    revision = gate.status()["revision"]
    gate.kill_agent()
    began = time.time()
    for deny in denies:
        deny.attempt(lab)
    ended = time.time()
    gate.start()
    for deny in denies:
        record = gate.wait_audit(
            lambda one, deny=deny: concerns(lab, deny, one), f"{deny.reason} of {deny.endpoint}", mark=mark
        )
        assert record["endpoint"]["name"] == deny.endpoint
        assert (record["rule"], sorted(record["policies"])) == (deny.rule, sorted(deny.policies))
        assert record["revision"] == revision
        assert began - 1 < parse(record["time"]) < ended + 1


def test_the_log_is_rotated_by_size_and_loses_nothing(unstarted_gate: Callable[..., Gate]) -> None:
    gate = unstarted_gate()
    settings = json.loads(gate.config.read_text())
    settings["audit"] = {"path": str(gate.audit_log), "max_bytes": 20000, "backups": 3}
    gate.config.write_text(json.dumps(settings))
    gate.start()
    gate.add_all()
    ports = range(5000, 5080)
    script = f"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range({ports.start}, {ports.stop}):
    sock.sendto(b"x", ("{UNNAMED}", port))
"""
    assert gate.lab.batch.namespace.run(["python3", "-c", script]).returncode == 0
    files = [gate.audit_log.with_name(f"{gate.audit_log.name}.{number}") for number in (3, 2, 1)] + [gate.audit_log]

    def recorded() -> list[int]:
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return [json.loads(line)["destination"]["port"] for line in lines]

    wait_until(lambda: set(ports) <= set(recorded()), "every record, in some file")
    assert files[-2].exists()
    assert all(file.stat().st_size <= 20000 for file in files if file.exists())
    audit = gate.status()["audit"]
    assert (audit["lost"], audit["error"]) == (0, "")


def test_a_hang_up_opens_the_log_by_its_name_again(gate: Gate) -> None:
    moved = gate.audit_log.rename(gate.audit_log.with_name("moved"))
    size = moved.stat().st_size
    gate.agent.signal(signal.SIGHUP)
    datagram(gate.lab, "batch", UNNAMED, 4100)
    gate.wait_audit(lambda record: record["destination"]["port"] == 4100, "in the new file")
    assert moved.stat().st_size == size


def test_nothing_is_recorded_of_what_is_allowed(gate: Gate) -> None:
    frontend = gate.lab.frontend.namespace
    mark = len(gate.audit())
    assert traffic.http(frontend, f"{API}/public/x", address=API_V4).status == 200
    assert traffic.dns(frontend, "api.example.com").addresses
    datagram(gate.lab, "batch", UNNAMED, 4200)
    gate.wait_audit(lambda record: record["destination"]["port"] == 4200, "of what came last", mark=mark)
    assert [one["reason"] for one in gate.audit()[mark:] if one["endpoint"]["name"] == "frontend"] == []
