# SPDX-License-Identifier: Apache-2.0
"""Workloads come, go and come back; what is known of them stays."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from l7bpf.layouts import LAYOUT
from l7lab import traffic
from l7lab.gate import Gate, Json, program
from l7lab.namespace import Namespace
from l7lab.process import wait_until
from l7lab.topology import GATEWAY_V6, IN_CIDR, UNNAMED

LOCKED = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: locked, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: locked}}
  egress:
  - toCIDR: [198.51.100.64/26, "2001:db8:100::1/128"]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""


def cleanup(gate: Gate, *options: str) -> subprocess.CompletedProcess[str]:
    """`l7d cleanup` on the node."""
    return gate.lab.node.namespace.run([program("l7d"), "--config", str(gate.config), "cleanup", *options])


def declared(gate: Gate, name: str, netns: str, app: str = "locked") -> Path:
    """Declare an endpoint by file."""
    path = gate.lab.folder / "endpoints" / f"{name}.yaml"
    path.write_text(f"name: {name}\nnetns: {netns}\nlabels: {{app: {app}, io.kubernetes.pod.namespace: shop}}\n")
    return path


def endpoint(gate: Gate, name: str) -> Json:
    return next(one for one in gate.endpoints() if one["name"] == name)


def names(gate: Gate) -> set[str]:
    return {one["name"] for one in gate.endpoints()}


def prefixes(gate: Gate) -> set[str]:
    return {row["prefix"] for row in gate.api("GET", "/v1/bpf/ipcache")[1]}


def hang_up(gate: Gate) -> None:
    gate.agent.signal(signal.SIGHUP)


def wait_state(gate: Gate, name: str, state: str) -> Json:
    wait_until(lambda: name in names(gate) and endpoint(gate, name)["state"] == state, f"{name} to be {state}")
    return endpoint(gate, name)


def build(gate: Gate, name: str, address: str, *, v6: bool = False) -> Namespace:
    """A workload more, with one address, as the lab's own are built."""
    lab = gate.lab
    prefix = lab.node.namespace.name.removesuffix("node")
    namespace = Namespace(prefix + name)
    namespace.create()
    namespace.sysctl({"net.ipv6.conf.default.accept_dad": 0})
    host, bits = f"lxc-{name}", 128 if v6 else 32
    gateway = GATEWAY_V6 if v6 else "203.0.113.1"
    lab.node.namespace.ip(
        [
            f"link add {host} type veth peer name eth0 netns {namespace.name}",
            f"link set {host} addrgenmode none",
            f"addr add {gateway}/{64 if v6 else 32} dev {host} {'nodad' if v6 else 'scope link'}",
            f"link set {host} up",
            f"route add {address}/{bits} dev {host}",
        ]
    )
    namespace.ip(
        [
            f"addr add {address}/{bits} dev eth0 {'nodad' if v6 else ''}",
            "link set eth0 up",
            *([] if v6 else [f"route add {gateway} dev eth0 scope link"]),
            f"route add {'::/0' if v6 else 'default'} via {gateway} dev eth0",
        ]
    )
    return namespace


def open_(namespace: Namespace, address: str, port: int = 80) -> bool:
    return traffic.connect(namespace, address, port, timeout=0.4).open


@pytest.fixture(scope="module")
def locked(gate: Gate) -> Gate:
    """The examples and one policy more."""
    gate.write("50-locked.yaml", LOCKED)
    gate.must("rules", "reload")
    return gate


def test_an_endpoint_declared_before_its_namespace_waits_for_it(locked: Gate) -> None:
    gate = locked
    name = gate.lab.node.namespace.name.removesuffix("node") + "early"
    path = declared(gate, "early", name)
    hang_up(gate)
    wait_state(gate, "early", "waiting")
    wait_until(lambda: "does not exist" in endpoint(gate, "early")["message"], "what it waits for")
    assert endpoint(gate, "early")["source"] == str(path)
    namespace = build(gate, "early", "203.0.113.41")
    ready = wait_state(gate, "early", "ready")
    assert (ready["addresses"], ready["message"]) == (["203.0.113.41"], "")
    assert open_(namespace, IN_CIDR)
    assert not open_(namespace, UNNAMED)

    # Its namespace goes, and another of the same name comes.
    namespace.delete()
    wait_state(gate, "early", "waiting")
    wait_until(lambda: "203.0.113.41/32" not in prefixes(gate), "its address to be forgotten")
    namespace = build(gate, "early", "203.0.113.42")
    again = wait_state(gate, "early", "ready")
    assert (again["id"], again["addresses"]) == (ready["id"], ["203.0.113.42"])
    assert again["ifindex"] != ready["ifindex"]
    assert open_(namespace, IN_CIDR)
    assert not open_(namespace, UNNAMED)

    # Other labels: the same endpoint, other rules, and at no time none.
    declared(gate, "early", name, app="unknown")
    hang_up(gate)
    wait_until(lambda: endpoint(gate, "early")["enforcing"] == "none", "the new labels")
    assert endpoint(gate, "early")["id"] == ready["id"]
    assert "k8s:app=unknown" in endpoint(gate, "early")["labels"]
    assert open_(namespace, UNNAMED)
    declared(gate, "early", name)
    hang_up(gate)
    wait_until(lambda: endpoint(gate, "early")["enforcing"] == "egress", "the old labels")
    assert not open_(namespace, UNNAMED)

    # The file goes.
    path.unlink()
    hang_up(gate)
    wait_until(lambda: "early" not in names(gate), "the endpoint to go")
    wait_until(lambda: open_(namespace, UNNAMED), "its packets to be judged no more")


def test_a_file_with_a_mistake_keeps_the_endpoints_as_they_are(locked: Gate) -> None:
    gate = locked
    before = names(gate)
    path = gate.lab.folder / "endpoints" / "bad.yaml"
    path.write_text("netns: x\nlabel: {app: x}\n")
    hang_up(gate)
    wait_until(lambda: "bad.yaml:2:1" in gate.agent.output(), "the mistake to be named")
    path.unlink()
    assert names(gate) == before
    assert gate.status()["endpoints"] == len(before)


def test_a_workload_with_ipv6_only_is_judged(locked: Gate) -> None:
    gate = locked
    namespace = build(gate, "six", "2001:db8:244::66", v6=True)
    gate.must("endpoint", "add", "--netns", namespace.name, "--name", "six", "--label=app=locked",
              "--label=io.kubernetes.pod.namespace=shop")  # fmt: skip
    assert endpoint(gate, "six")["addresses"] == ["2001:db8:244::66"]
    assert open_(namespace, "2001:db8:100::1")
    assert not open_(namespace, "2001:db8:100::2")
    gate.must("endpoint", "remove", "six")
    assert open_(namespace, "2001:db8:100::2")


def test_an_endpoint_that_no_policy_selects_is_not_limited(locked: Gate) -> None:
    gate = locked
    namespace = build(gate, "free", "203.0.113.51")
    gate.must("endpoint", "add", "--netns", namespace.name, "--name", "free", "--label=app=free")
    assert endpoint(gate, "free")["enforcing"] == "none"
    assert open_(namespace, UNNAMED)
    assert traffic.dns(namespace, "tracker.example.net").rcode == "NOERROR"
    # Its neighbours' ingress policies hold for it as for anybody.
    assert not traffic.connect(namespace, gate.lab.backend.v4, 8080, timeout=0.4).open
    gate.must("endpoint", "remove", "free")


def test_endpoints_with_equal_labels_share_their_entries(locked: Gate) -> None:
    gate = locked
    pair = [build(gate, name, address) for name, address in (("one", "203.0.113.61"), ("two", "203.0.113.62"))]
    for namespace, name in zip(pair, ("one", "two"), strict=True):
        gate.must("endpoint", "add", "--netns", namespace.name, "--name", name, "--label=app=locked",
                  "--label=io.kubernetes.pod.namespace=shop")  # fmt: skip
    one, two = endpoint(gate, "one"), endpoint(gate, "two")
    taken = gate.ctl("endpoint", "add", "--netns", pair[1].name, "--name", "one", "--label=app=locked")
    assert taken.code == 1
    assert "already" in taken.err
    assert one["id"] != two["id"]
    assert (one["policy_id"], one["identity"]) == (two["policy_id"], two["identity"])
    shared = gate.api("GET", "/v1/bpf/policy?endpoint=one")[1]
    assert shared == gate.api("GET", "/v1/bpf/policy?endpoint=two")[1]
    assert all(row["endpoints"] == ["one", "two"] for row in shared)
    gate.must("endpoint", "remove", "one", "two")
    assert not [row for row in gate.api("GET", "/v1/bpf/policy")[1] if row["policy_id"] == one["policy_id"]]


def test_an_endpoint_removed_by_command_flows_freely_and_leaves_no_rows(locked: Gate) -> None:
    gate, batch = locked, locked.lab.batch
    before = endpoint(gate, "batch")
    assert not open_(batch.namespace, UNNAMED)
    gate.must("endpoint", "remove", "batch")
    assert "batch" not in names(gate)
    assert open_(batch.namespace, UNNAMED)
    assert not [row for row in gate.api("GET", "/v1/bpf/policy")[1] if row["policy_id"] == before["policy_id"]]
    assert not prefixes(gate) & {f"{batch.v4}/32", f"{batch.v6}/128"}
    assert gate.ctl("endpoint", "remove", "batch").code == 1
    gate.add(batch)
    assert not open_(batch.namespace, UNNAMED)
    assert open_(batch.namespace, IN_CIDR)


def test_ids_and_identities_are_the_same_after_a_restart(locked: Gate) -> None:
    gate = locked

    def numbers() -> list[tuple[str, int, int]]:
        return sorted((one["name"], one["id"], one["identity"]) for one in gate.endpoints())

    before, revision = numbers(), gate.status()["revision"]
    gate.stop_agent()
    gate.start()
    assert numbers() == before
    assert gate.status()["revision"] >= revision
    gate.kill_agent()
    gate.start()
    assert numbers() == before


def node_state(gate: Gate) -> dict[str, str]:
    """What the daemon may have changed about its node."""
    node = gate.lab.node.namespace
    commands = {
        "rules": "ip rule; ip -6 rule",
        "routes": "ip route show table all; ip -6 route show table 2004",
        "filters": "tc qdisc",
        "demux": "sysctl -n net.ipv4.tcp_early_demux",
        "bpf": f"find {gate.lab.bpffs}",
        "listeners": "ss -Hltnu",
    }
    return {key: node.run(["sh", "-c", command]).stdout for key, command in commands.items()}


@pytest.mark.parametrize("attach", ["tcx", "tc"])
def test_cleanup_leaves_the_node_as_it_was_and_refuses_while_the_agent_runs(
    unstarted_gate: Callable[..., Gate], attach: str
) -> None:
    gate = unstarted_gate(settings={"attach": attach})
    before = node_state(gate)
    gate.start()
    gate.add_all()
    during, workers = node_state(gate), gate.workers()
    assert all(before[key] != during[key] for key in ("rules", "routes", "demux", "bpf", "listeners"))
    assert (before["filters"] != during["filters"]) == (attach == "tc")
    refused = cleanup(gate)
    assert refused.returncode == 1
    assert "is running" in refused.stderr
    assert node_state(gate) == during
    gate.stop_agent()
    assert not open_(gate.lab.batch.namespace, UNNAMED)
    done = cleanup(gate)
    assert (done.returncode, done.stderr) == (0, "")
    assert node_state(gate) == before
    assert not [
        pid for pid in workers.values() if Path(f"/proc/{pid}").exists() and pid in gate.lab.node.namespace.pids()
    ]
    assert open_(gate.lab.batch.namespace, UNNAMED)
    again = cleanup(gate)
    assert (again.returncode, again.stderr) == (0, "")
    # What was declared is not forgotten.
    gate.start()
    wait_until(gate.endpoints_ready, "the endpoints to be ready again")
    assert not open_(gate.lab.batch.namespace, UNNAMED)
    # A running agent is stopped first, if that is asked for.
    forced = cleanup(gate, "--force")
    assert (forced.returncode, forced.stdout.splitlines()[0], forced.stderr) == (0, "agent stopped", "")
    wait_until(lambda: not gate.agent.running, "the agent to be reaped")
    assert node_state(gate) == before


def test_after_a_reboot_the_state_directory_is_enough(unstarted_gate: Callable[..., Gate]) -> None:
    gate = unstarted_gate()
    node, batch = gate.lab.node.namespace, gate.lab.batch.namespace
    before = node_state(gate)
    gate.start()
    gate.add_all()
    numbers = sorted((one["name"], one["id"], one["identity"]) for one in gate.endpoints())
    # All that a reboot takes: every process at once, and what the kernel held.
    ours = [pid for pid in node.pids() if str(gate.config) in Path(f"/proc/{pid}/cmdline").read_text()]
    assert set(gate.workers().values()) < set(ours)
    for number in (signal.SIGSTOP, signal.SIGKILL):  # nobody starts another one meanwhile
        for pid in ours:
            os.kill(pid, number)
    shutil.rmtree(gate.lab.bpffs / "l7")
    undo = "for n in 8 9 10; do while ip $f rule del pref $n 2>&-; do :; done; done; ip $f route flush table 2004"
    demux = before["demux"].strip()
    node.run(["sh", "-c", f"for f in -4 -6; do {undo}; done; sysctl -qw net.ipv4.tcp_early_demux={demux}"])
    for file in gate.socket.parent.iterdir():
        file.unlink()
    assert node_state(gate) == before
    assert open_(batch, UNNAMED)

    gate.start()
    wait_until(gate.endpoints_ready, "the endpoints to be ready again")
    assert sorted((one["name"], one["id"], one["identity"]) for one in gate.endpoints()) == numbers
    assert gate.status()["problems"] == []
    assert open_(batch, IN_CIDR)
    assert not open_(batch, UNNAMED)


def test_cleanup_takes_away_the_file_system_that_the_daemon_mounted(unstarted_gate: Callable[..., Gate]) -> None:
    gate = unstarted_gate()
    pins = gate.lab.folder / "pins"
    gate.config.write_text(gate.config.read_text().replace(str(gate.lab.bpffs / "l7"), str(pins)))
    gate.start()
    assert str(pins) in Path("/proc/self/mounts").read_text()
    gate.stop_agent()
    done = cleanup(gate)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(pins) not in Path("/proc/self/mounts").read_text()
    assert not pins.exists()


NAMED = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: by-name, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: batch}}
  egress:
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: orders, protocol: TCP}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: by-name-too, namespace: shop}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - ports: [{port: orders, protocol: TCP}]
"""


def test_ports_are_called_by_the_names_that_their_workloads_give_them(unstarted_gate: Callable[..., Gate]) -> None:
    gate = unstarted_gate(policies={"named.yaml": NAMED})
    gate.start()
    lab = gate.lab
    gate.add(lab.batch)
    labels = ("--label=app=backend", "--label=io.kubernetes.pod.namespace=shop")
    add = ("endpoint", "add", "--netns", lab.backend.namespace.name, "--name", "backend", *labels)
    gate.must(*add)
    assert not open_(lab.batch.namespace, lab.backend.v4, 8080)
    gate.must("endpoint", "remove", "backend")
    gate.must(*add, "--port", "orders=8080/TCP")
    assert open_(lab.batch.namespace, lab.backend.v4, 8080)
    assert not open_(lab.batch.namespace, lab.backend.v4, 22)
    gate.must("endpoint", "remove", "backend")
    gate.must(*add, "--port", "orders=22/TCP")
    assert not open_(lab.batch.namespace, lab.backend.v4, 8080)
    assert "orders=22/TCP" in gate.must("endpoint", "get", "backend").out


def test_new_labels_bring_other_policies_and_end_what_these_deny(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    gate.write("50-locked.yaml", LOCKED)
    gate.must("rules", "reload")
    batch, before = gate.lab.batch.namespace, endpoint(gate, "batch")
    assert open_(batch, IN_CIDR)
    gate.must("endpoint", "labels", "batch", "-a", "app=unknown", "-a", "tier=back")
    now = endpoint(gate, "batch")
    assert (now["id"], now["policies"], now["enforcing"]) == (before["id"], [], "none")
    assert now["identity"] != before["identity"]
    assert open_(batch, UNNAMED)
    gate.must("endpoint", "labels", "batch", "-a", "app=locked", "-d", "tier")
    assert endpoint(gate, "batch")["policies"] == ["shop/locked"]
    assert not open_(batch, UNNAMED)
    gate.kill_agent()
    gate.start()
    assert endpoint(gate, "batch")["policies"] == ["shop/locked"]
    refused = gate.ctl("endpoint", "labels", "batch", "-d", "nothing")
    assert (refused.code, "has no label 'nothing'" in refused.err) == (1, True)
    assert gate.ctl("endpoint", "labels", "nobody", "-d", "a").code == 1
    path = declared(gate, "early", gate.lab.node.namespace.name.removesuffix("node") + "early")
    hang_up(gate)
    wait_state(gate, "early", "waiting")
    refused = gate.ctl("endpoint", "labels", "early", "-a", "a=b")
    assert (refused.code, str(path) in refused.err) == (1, True)


def test_labels_that_do_not_count_select_nothing_and_share_an_identity(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(settings={"labels": ["k8s:app"]})
    gate.must("endpoint", "labels", "batch", "-a", "team=a")
    gate.must("endpoint", "labels", "frontend", "-a", "app=batch")
    batch, frontend = endpoint(gate, "batch"), endpoint(gate, "frontend")
    assert batch["identity"] == frontend["identity"]
    assert "k8s:team=a" in batch["labels"]
    assert "k8s:team=a" not in batch["identity_labels"]
    assert "k8s:team=a  (does not count" in gate.must("endpoint", "labels", "batch").out


def test_cleanup_ends_what_a_load_or_a_removal_began_and_was_killed_in(unstarted_gate: Callable[..., Gate]) -> None:
    gate = unstarted_gate()
    pins = gate.lab.bpffs / "l7" / LAYOUT
    for folder in ("links", "programs", "maps"):
        (pins / folder).mkdir(parents=True)
    done = cleanup(gate)
    assert done.returncode == 0, done.stderr
    assert not pins.exists()
