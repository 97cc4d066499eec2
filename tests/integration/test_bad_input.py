# SPDX-License-Identifier: Apache-2.0
"""What operators get wrong, and what machines do to them: one clear line, nothing half done, nothing let through."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from l7lab import traffic
from l7lab.gate import Gate, program
from l7lab.namespace import environment, run
from l7lab.process import wait_until
from l7lab.topology import IN_CIDR, UNNAMED

LISTEN = """
import socket, sys, time
kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
taken = []
for argument in sys.argv[1:]:
    kind, port = argument.split(":")
    sock = socket.socket(socket.AF_INET, kinds[kind])
    sock.bind(("127.0.0.1", int(port)))
    if kind == "tcp":
        sock.listen()
    taken.append(sock)
print("ready", flush=True)
time.sleep(600)
"""
DROPS = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[2])):
    sock.sendto(b"x", (sys.argv[1], 9))
"""


def l7d(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `l7d` where no daemon is, to its end."""
    argv = [program("l7d"), "--config", str(config), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, env=environment(), check=False)


def on_node(gate: Gate, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `l7d` on the lab's node, to its end."""
    return gate.lab.node.namespace.run([program("l7d"), "--config", str(gate.config), *arguments])


def command(pid: int) -> str:
    """Its command line."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def open_(gate: Gate, address: str) -> bool:
    return traffic.connect(gate.lab.batch.namespace, address, 80, timeout=0.4).open


def set_config(gate: Gate, **settings: object) -> None:
    gate.config.write_text(json.dumps(json.loads(gate.config.read_text()) | settings))


def drop(gate: Gate, count: int) -> None:
    """Let `batch` send so many datagrams that are dropped."""
    done = gate.lab.batch.namespace.run([sys.executable, "-I", "-S", "-c", DROPS, UNNAMED, str(count)])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--netns", "nowhere", "--label=app=x"], 1, "no network namespace 'nowhere'"),
        (["--netns", "/nowhere/at/all", "--label=app=x"], 1, "no network namespace '/nowhere/at/all'"),
        (["--netns", "/etc/hostname", "--label=app=x"], 1, "network namespace '/etc/hostname'"),
        (["--netns", "a/b", "--label=app=x"], 1, "neither the name of a network namespace nor an absolute path"),
        (["--netns", "OUTSIDE", "--label=app=x", "--interface=eth7"], 1, "has no interface 'eth7'"),
        (["--netns", "NODE", "--label=app=x"], 1, "is the node's own network namespace"),
        (["--netns", "EMPTY", "--label=app=x"], 1, "has no veth interface"),
        (["--netns", "BATCH", "--label=app=x"], 1, "belongs to endpoint 'batch' already"),
        (["--netns", "OUTSIDE", "--label=app=x"], 1, "ext0 is an uplink of this node"),
        (["--netns", "/run/netns/BATCH", "--name=b2", "--label=app=x"], 1, "belongs to endpoint 'batch' already"),
        (["--netns", "OUTSIDE"], 1, "ext0 is an uplink of this node"),
        (["--netns", "OUTSIDE", "--label==x"], 1, "label"),
        (["--netns", "OUTSIDE", "--name=4", "--label=app=x"], 1, "cannot name an endpoint"),
        ([], 2, "--netns"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_and_leaves_nothing(
    gate: Gate, arguments: list[str], code: int, message: str
) -> None:
    lab = gate.lab
    prefix = lab.node.namespace.name.removesuffix("node")
    empty = lab.batch.namespace.__class__(prefix + "empty")
    if not empty.exists():
        empty.create()
    words = {"OUTSIDE": prefix + "outside", "NODE": prefix + "node", "BATCH": prefix + "batch", "EMPTY": empty.name}
    for word, name in words.items():
        arguments = [argument.replace(word, name) for argument in arguments]
    before = gate.endpoints(), gate.api("GET", "/v1/bpf/ipcache")[1]
    done = gate.ctl("endpoint", "add", *arguments)
    assert done.code == code
    assert message in done.err
    assert (gate.endpoints(), gate.api("GET", "/v1/bpf/ipcache")[1]) == before
    assert not open_(gate, UNNAMED)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/endpoints", {"labels": []}, 400),
        ("POST", "/v1/endpoints", {"netns": 7, "labels": []}, 400),
        ("POST", "/v1/endpoints", {"netns": "a", "labels": ["a=b"], "more": 1}, 400),
        ("POST", "/v1/endpoints", "text", 400),
        ("DELETE", "/v1/endpoints/nobody", None, 404),
        ("GET", "/v1/bpf/policy?endpoint=nobody", None, 404),
        ("POST", "/v1/rules/rollback", {"revision": "x"}, 400),
        ("POST", "/v1/rules/rollback", {"revision": -1}, 404),
        ("POST", "/v1/rules/diff", {"sources": [{"path": "x"}]}, 400),
        ("POST", "/v1/rules/diff", {"sources": [{"path": "x", "text": "a: ["}]}, 422),
        ("GET", "/v1/nothing", None, 404),
        ("PUT", "/v1/status", None, 405),
    ],
)
def test_the_api_answers_what_it_does_not_understand(
    gate: Gate, method: str, path: str, body: object, status: int
) -> None:
    answered, said = gate.api(method, path, body)
    assert answered == status
    assert said["error"]
    assert gate.ready()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polices: /x\n", ":1:1: unknown field polices"),
        ("audit:\n  max_byte: 3\n", ":2:3: unknown field"),
        ("policies: relative\n", "policies: 'relative' must be an absolute path"),
        ("http_workers: 0\n", ":1:"),
        ("http_workers: many\n", ":1:15: http_workers: 'many'"),
        ("uplinks: eth0\n", ":1:10: uplinks: 'eth0'"),
        ("attach: xdp\n", ":1:"),
        ("maps: {policy: -1}\n", ":1:"),
        ("dns: [\n", ":"),
        ("a\n", ":1:1"),
        (b"# caf\xe9\n", "cannot be read"),
        (None, "no such file"),
    ],
)
@pytest.mark.parametrize("verb", [["agent"], ["cleanup"]])
def test_a_mistake_in_the_configuration_is_one_line_and_exit_code_2(
    tmp_path: Path, text: str | bytes | None, message: str, verb: list[str]
) -> None:
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_bytes(text.encode() if isinstance(text, str) else text)
    done = l7d(config, *verb)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"l7d: {config}")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ["fifo", "device"])
def test_what_never_ends_among_the_policies_is_named_and_does_not_hold_the_agent_up(gate: Gate, what: str) -> None:
    path = gate.policies / "50-endless.yaml"
    if what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    try:
        done = gate.ctl("--timeout", "10", "rules", "reload")
        assert done.code == 1
        assert f"{path}: cannot be read: Not a regular file" in done.err
        assert gate.status()["revision"]
    finally:
        path.unlink()
        gate.must("rules", "reload")


def test_a_second_agent_on_the_same_socket_ends_and_the_first_goes_on(gate: Gate) -> None:
    before = gate.status()
    done = on_node(gate, "agent")
    assert done.returncode == 1
    assert "another l7d agent is running" in done.stderr
    assert done.stderr.count("\n") == 1
    after = gate.status()
    assert (after["pid"], after["revision"]) == (before["pid"], before["revision"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gate: (gate.policies / "x.yaml").write_text("a: [\n"), "x.yaml:2:1"),
        (lambda gate: (gate.policies / "x.yaml").write_bytes(b"\xff"), "x.yaml: is not UTF-8"),
        (lambda gate: (gate.policies / "x.yaml").mkdir(), "x.yaml: cannot be read: Is a directory"),
        (lambda gate: set_config(gate, policies="/nowhere/policies"), "/nowhere/policies: cannot be read"),
        (lambda gate: set_config(gate, uplinks=["eth77"]), "uplink eth77: no such interface"),
        (lambda gate: set_config(gate, state="/proc/nowhere"), "/proc/nowhere"),
        (lambda gate: set_config(gate, api={"socket": "/proc/nowhere/agent.sock"}), "/proc/nowhere"),
        (
            lambda gate: (gate.lab.folder / "endpoints" / "x.yaml").write_text("netns: a\n"),
            "x.yaml:1:1",
        ),
        (
            lambda gate: (
                (gate.lab.folder / "state").mkdir(),
                (gate.lab.folder / "state" / "endpoints.json").write_text("{"),
            ),
            "remove the file to start without what it remembers",
        ),
    ],
)
def test_an_agent_that_cannot_start_says_why_and_ends(
    unstarted_gate: Callable[..., Gate], spoil: Callable[[Gate], object], message: str
) -> None:
    gate = unstarted_gate()
    spoil(gate)
    done = on_node(gate, "agent")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "l7d: " in done.stderr
    assert not [pid for pid in gate.lab.node.namespace.pids() if "l7agent" in command(pid)]


def test_an_agent_that_knows_rules_starts_with_them_when_the_files_are_broken(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    gate.kill_agent()
    (gate.policies / "x.yaml").write_text("a: [\n")
    gate.start()
    assert "x.yaml:2:1" in gate.status()["policy_load_error"]
    assert gate.status()["policies"] == 4
    assert open_(gate, IN_CIDR)
    assert not open_(gate, UNNAMED)


def test_a_port_that_somebody_else_has_is_named_and_nothing_gets_through(make_gate: Callable[..., Gate]) -> None:
    gate = make_gate()
    node = gate.lab.node
    gate.stop_agent()
    for pid in node.namespace.pids():
        if "l7agent" in command(pid):
            os.kill(pid, signal.SIGKILL)
    # With kept rules it would wait twice for processes that do not come: for those rules, and for the files'.
    shutil.rmtree(gate.lab.folder / "state" / "revisions")
    taken = gate.lab.start(node, [sys.executable, "-I", "-c", LISTEN, "tcp:10080", "udp:10053"], "taken")
    taken.wait(lambda: "ready" in taken.output(), "the ports to be taken")
    done = on_node(gate, "agent")
    assert done.returncode == 1
    for expected in ("http-0: port 10080: Address already in use", "dns-0: port 10053: Address already in use"):
        assert expected in done.stderr
    assert "http-0 did not get ready" in done.stderr
    assert "Traceback" not in done.stderr
    frontend = gate.lab.frontend.namespace
    assert traffic.http(frontend, "http://api.example.com/public/x", address="198.51.100.1").status == 0
    assert traffic.dns(frontend, "api.example.com", timeout=1).rcode == ""
    assert not open_(gate, UNNAMED)
    assert open_(gate, IN_CIDR)
    taken.stop()
    gate.start()
    wait_until(gate.endpoints_ready, "the endpoints")
    assert traffic.dns(frontend, "api.example.com").addresses
    assert traffic.http(frontend, "http://api.example.com/public/x", address="198.51.100.1").status == 200


def test_a_full_disk_loses_audit_records_and_nothing_else(unstarted_gate: Callable[..., Gate], tmp_path: Path) -> None:
    gate = unstarted_gate()
    small = gate.lab.folder / "small"
    small.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)])
    gate.audit_log = small / "audit.jsonl"
    set_config(gate, audit={"path": str(gate.audit_log), "backups": 0})
    gate.start()
    gate.add_all()
    stream = traffic.Stream.http(
        gate.lab.batch.namespace, tmp_path / "log", "http://results.example/", address=IN_CIDR, keep_alive=False
    )
    with stream:
        for _ in range(20):
            drop(gate, 1500)
            if gate.status()["audit"]["lost"] or gate.status()["events_lost"]:
                break
        wait_until(lambda: gate.status()["audit"]["lost"] > 0, "records to be counted as lost", timeout=20.0)
        assert "no space left on the disk" in gate.status()["audit"]["error"]
        mark = stream.mark()
        assert {step.outcome for step in stream.wait_count(10, mark=mark)} == {"200"}
        assert not open_(gate, UNNAMED)
        status = gate.ctl("status", "-o", "json")
        assert (status.code, status.json["problems"]) == (1, ["the audit log cannot be written"])
        assert gate.ctl("rules", "reload").code == 0
        run(["mount", "-o", "remount,size=64m", str(small)])
        written = gate.status()["audit"]["written"]
        wait_until(lambda: gate.status()["audit"]["written"] > written, "records to be written again")
        wait_until(lambda: gate.status()["audit"]["written"] == len(gate.audit()), "all of them")
        frontend = gate.lab.frontend
        traffic.udp(frontend.namespace, UNNAMED, 4242, b"x", timeout=0.1)
        gate.wait_audit(lambda record: record["destination"]["port"] == 4242, "a new one")
        assert {step.outcome for step in stream.outcomes()} == {"200"}


def test_a_state_directory_that_is_full_hinders_no_reload(unstarted_gate: Callable[..., Gate]) -> None:
    gate = unstarted_gate()
    state = gate.lab.folder / "state"
    state.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(state)])
    gate.start()
    gate.add_all()
    assert (
        subprocess.run(["dd", "if=/dev/zero", f"of={state}/filler"], capture_output=True, check=False).returncode == 1
    )
    gate.edit("30-batch.yaml", "- 198.51.100.64/26", "- 198.51.100.192/26")
    gate.must("rules", "reload")
    assert not open_(gate, IN_CIDR)
    assert open_(gate, UNNAMED)
    assert "the state directory cannot be written" in gate.agent.output()
    assert traffic.dns(gate.lab.frontend.namespace, "api.example.com").addresses
    gate.must("rules", "rollback")
    assert open_(gate, IN_CIDR)
    gate.kill_agent()
    gate.restore()
    gate.start()
    assert open_(gate, IN_CIDR)
    assert not open_(gate, UNNAMED)
