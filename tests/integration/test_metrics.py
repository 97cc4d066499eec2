# SPDX-License-Identifier: Apache-2.0
"""Metrics tell what traffic did, on the agent's socket and on a port that workloads do not reach."""

import http.client
import re
from collections.abc import Callable

from l7lab import traffic
from l7lab.gate import Gate, UnixConnection
from l7lab.process import wait_until
from l7lab.scenario import API
from l7lab.topology import GATEWAY_V4, NODE_V4, RESOLVER_V4, UNNAMED
from l7observe.metrics import FAMILIES, PREFIX

PORT = 9964
LINE = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})? (\S+)")


def scrape(gate: Gate) -> dict[tuple[str, str], float]:
    connection = UnixConnection(gate.socket, 15.0)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == http.HTTPStatus.OK
        assert answer.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        text = answer.read().decode()
    finally:
        connection.close()
    found: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        assert match is not None, line
        name, labels, value = match.groups()
        assert (name, labels or "") not in found, line
        found[name, labels or ""] = float(value)
    return found


def test_what_traffic_did_is_counted(gate: Gate) -> None:
    before = scrape(gate)
    frontend = gate.lab.frontend.namespace
    for path, status in (("/public/items", 200), ("/admin", 403)):
        answered = traffic.browse(frontend, f"{API}{path}")[1]
        assert answered is not None
        assert answered.status == status
    assert traffic.dns(frontend, "denied.test", server=RESOLVER_V4).rcode == "REFUSED"
    assert not traffic.connect(gate.lab.batch.namespace, UNNAMED, 80, timeout=0.3).open
    after = scrape(gate)

    def grew(name: str, *labels: str) -> float:
        def total(found: dict[tuple[str, str], float]) -> float:
            wanted = PREFIX + name
            return sum(v for (n, text), v in found.items() if n == wanted and all(part in text for part in labels))

        return total(after) - total(before)

    assert grew("http_requests_total", 'verdict="FORWARDED"', 'status="2xx"') == 1
    assert grew("http_requests_total", 'verdict="DROPPED"', 'status="4xx"') == 1
    assert grew("http_request_duration_seconds_count") == 1
    assert grew("dns_responses_total", 'outcome="refused"', 'rcode="REFUSED"') == 1
    assert grew("dns_responses_total", 'outcome="forwarded"', 'rcode="NOERROR"') >= 1
    assert grew("drop_count_total", 'reason="POLICY_DENIED"') >= 1
    assert grew("redirect_count_total") > 0
    assert grew("conntrack_created_total") > 0


def test_every_metric_of_the_reference_is_there_and_no_other(gate: Gate) -> None:
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in scrape(gate)}
    named = {PREFIX + family.name for family in FAMILIES.values()}
    assert names <= named | {PREFIX + "forward", PREFIX + "drop"}
    # Those that come with what they count.
    assert named - names <= {f"{PREFIX}{name}" for name in ("drop_count_total", "drop_bytes_total")} | {
        f"{PREFIX}{name}_total" for name in ("http_requests", "tls_connections", "dns_responses")
    }


def test_reloads_are_counted_by_what_came_of_them(gate: Gate) -> None:
    before = scrape(gate)
    gate.must("rules", "reload")
    bad = gate.policies / "bad.yaml"
    bad.write_text("kind: Nothing")
    try:
        assert gate.ctl("rules", "reload").code == 1
        failed = scrape(gate)
        assert failed[f"{PREFIX}policy_load_error", ""] == 1
    finally:
        bad.unlink()
        gate.must("rules", "reload")
    after = scrape(gate)
    name = f"{PREFIX}policy_change_total"
    assert after[name, 'outcome="success"'] - before[name, 'outcome="success"'] == 2
    assert after[name, 'outcome="failure"'] - before[name, 'outcome="failure"'] == 1
    assert after[f"{PREFIX}policy_load_error", ""] == 0


def test_a_process_that_died_is_counted(gate: Gate) -> None:
    pid = gate.workers()["http-1"]
    before = scrape(gate)[f"{PREFIX}process_restarts_total", 'process="http-1"']
    gate.lab.node.namespace.run(["kill", "-9", str(pid)])
    wait_until(lambda: gate.workers()["http-1"] != pid and gate.ready(), "the worker to be replaced")
    after = scrape(gate)
    assert after[f"{PREFIX}process_restarts_total", 'process="http-1"'] == before + 1
    assert after[f"{PREFIX}process_up", 'process="http-1"'] == 1
    assert after[f"{PREFIX}process_resident_memory_bytes", 'process="http-1"'] > 1 << 20


def test_l7ctl_lists_the_same(gate: Gate) -> None:
    listed = gate.must("metrics", "list", "-p", "map_capacity", "-o", "json").json
    capacities = {one["labels"]["map_name"]: one["value"] for one in listed}
    assert capacities["conntrack"] == 131072
    assert set(capacities) == {table["name"] for table in gate.status()["maps"]}
    everything = gate.must("metrics", "list", "-o", "json").json
    assert {type(one["value"]) for one in everything} <= {int, float}
    lines = gate.must("metrics", "list").out.splitlines()
    assert ["l7gate_process_up", "process=dns-0", "1"] in [line.split() for line in lines]


OPEN = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: open, namespace: shop}
spec:
  endpointSelector: {}
  egress: [{toEntities: [all]}]
  ingress: [{fromEntities: [all]}]
"""


def test_a_workload_whose_policy_allows_all_is_refused_the_metrics(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate({"open.yaml": OPEN}, {"metrics": {"listen": f"0.0.0.0:{PORT}"}})
    lab = gate.lab
    for workload in lab.workloads:
        for address in (NODE_V4, GATEWAY_V4):
            result = traffic.http(workload.namespace, f"http://example.test:{PORT}/metrics", address=address)
            assert (result.status, result.body) == (403, "metrics are not for workloads\n"), result
    scraped = traffic.http(lab.outside.namespace, f"http://example.test:{PORT}/metrics", address=NODE_V4)
    assert scraped.status == 200
    assert f"{PREFIX}policy_revision" in scraped.body
    assert traffic.http(lab.outside.namespace, f"http://example.test:{PORT}/v1/status", address=NODE_V4).status == 404


def test_a_port_alone_is_the_nodes_own(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate({"open.yaml": OPEN}, {"metrics": {"listen": f":{PORT}"}})
    lab = gate.lab
    assert traffic.http(lab.node.namespace, f"http://localhost:{PORT}/metrics", address="127.0.0.1").status == 200
    for namespace in (lab.frontend.namespace, lab.outside.namespace):
        assert not traffic.connect(namespace, NODE_V4, PORT, timeout=0.5).open
    assert not traffic.connect(lab.frontend.namespace, GATEWAY_V4, PORT, timeout=0.5).open


def test_metrics_are_on_no_port_unless_asked(gate: Gate) -> None:
    assert not traffic.connect(gate.lab.node.namespace, "127.0.0.1", PORT, timeout=0.5).open


def test_events_over_the_configured_rate_are_counted_as_lost_and_their_drops_are_not(
    make_gate: Callable[..., Gate],
) -> None:
    gate = make_gate(settings={"maps": {"events_per_second": 1, "event_bytes": 4096}})
    before = scrape(gate)
    # From one shell, so that they are more than a second's events on a busy machine too.
    send = f"for port in {{7000..7031}}; do echo x >/dev/udp/{UNNAMED}/$port; done"
    gate.lab.batch.namespace.run(["bash", "-c", send])
    after = scrape(gate)
    dropped = f"{PREFIX}drop_count_total", 'reason="POLICY_DENIED"'
    lost = f"{PREFIX}lost_events_total", 'source="drop"'
    assert after[dropped] - before.get(dropped, 0) >= 32
    assert 0 < after[lost] - before[lost] <= after[dropped] - before.get(dropped, 0)
