# SPDX-License-Identifier: Apache-2.0
"""A name's address is in the kernel before the client holds the answer, and leaves it when its time is over."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate, examples, program
from l7lab.process import wait_until
from l7lab.topology import SERVICES_V4, UNNAMED

NAMES = 200
HOSTS = [host for host in range(5, 255) if f"198.51.100.{host}" not in SERVICES_V4]
RESOLVER = "192.0.2.11"
POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: frontend}}}}
  egress:
  - toCIDR: [{RESOLVER}/32, 192.0.2.10/32, "2001:db8::10/128"]
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules:
        dns:
        - matchPattern: "*.many.example.com"
        - matchPattern: "*.short-lived.example.com"
        - matchName: short.example.com
        - matchName: api.example.com
        - matchPattern: "*.cdn.example.com"
        - matchName: edge.cdn.example.net
  - toFQDNs:
    - matchPattern: "*.many.example.com"
    - matchName: short.example.com
    - matchName: api.example.com
    - matchPattern: "*.cdn.example.com"
    toPorts:
    - ports: [{{port: "80", protocol: TCP}}]
"""

# Asks for each name and connects at once, with no second chance: a SYN that is dropped comes again after a second.
CLIENT = """
import json, socket, struct, sys
resolver, qtype, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET if qtype == 1 else socket.AF_INET6
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(3)
asker.connect((resolver, 53))
failed = []
for number in range(first, last):
    labels = (f"n{number}", "many", "example", "com")
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\\0"
    asker.send(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", qtype, 1))
    answer = asker.recv(2048)
    address = socket.inet_ntop(family, answer[-(4 if qtype == 1 else 16):])
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.7)
        try:
            sock.connect((address, 80))
        except OSError as error:
            failed.append((number, address, str(error)))
print(json.dumps(failed))
"""


def addresses(number: int) -> tuple[str, str]:
    """One of each family for each name, all served by the outside host, none of another name's."""
    return f"198.51.100.{HOSTS[number]}", f"2001:db8:100:0:1::{number + 1:x}"


@contextmanager
def many_names(lab: Lab) -> Iterator[None]:
    """A second name server with many names, and a web server behind every one of them."""
    outside = lab.outside.namespace
    outside.ip(
        [
            f"addr add {RESOLVER}/24 dev ext0",
            "route add local 198.51.100.0/24 dev lo",
            "route add local 2001:db8:100:0:1::/80 dev lo",
        ]
    )
    config = lab.folder / "many.conf"
    lines = ["keep-in-foreground", "no-resolv", "no-hosts", "user=root", "bind-interfaces", "port=53"]
    lines += [f"listen-address={RESOLVER}", f"pid-file={lab.folder}/many.pid", "local=/com/"]
    lines += [f"host-record=n{n}.many.example.com,{','.join(addresses(n))},600" for n in range(NAMES)]
    config.write_text("\n".join(lines) + "\n")
    process = lab.start(lab.outside, ["dnsmasq", f"--conf-file={config}"], "many")
    wait_until(lambda: traffic.dns(outside, "n0.many.example.com", server=RESOLVER).rcode == "NOERROR", "names")
    yield
    process.stop()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A daemon with rules by name only."""
    source = tmp_path_factory.mktemp("policies")
    (source / "names.yaml").write_text(POLICY)
    with Lab() as lab, many_names(lab):
        gate = Gate(lab, source)
        gate.start()
        gate.add_all()
        yield gate
        assert "Traceback" not in (lab.folder / "l7d.log").read_text()


def failed(gate: Gate, qtype: int, first: int, last: int) -> list[object]:
    """Which of the names were asked for and then could not be connected to."""
    argv = [sys.executable, "-I", "-S", "-c", CLIENT, RESOLVER, str(qtype), str(first), str(last)]
    done = gate.lab.frontend.namespace.run(argv, timeout=60.0)
    assert done.returncode == 0, done.stderr
    result: list[object] = json.loads(done.stdout)
    return result


def open_(gate: Gate, address: str) -> bool:
    return traffic.connect(gate.lab.frontend.namespace, address, 80, timeout=0.4).open


def cache(gate: Gate) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = gate.must("fqdn", "cache", "list", "-o", "json").json
    return rows


def lasting(gate: Gate) -> set[object]:
    """Names that no slow test sees the end of."""
    return {row["name"] for row in cache(gate) if float(str(row["ttl"])) > 200}


@pytest.mark.parametrize("qtype", [1, 28])
def test_no_connection_is_refused_that_follows_its_answer_at_once(names: Gate, qtype: int) -> None:
    last = addresses(NAMES - 1)[qtype == 28]
    assert not open_(names, last)
    assert failed(names, qtype, 0, NAMES) == []
    assert open_(names, last)
    known = {row["address"] for row in cache(names)}
    assert {addresses(number)[qtype == 28] for number in range(NAMES)} <= known
    # One identity for all that the same selectors match: the kernel's entries do not grow with the addresses.
    learnt = {row["identity"] for row in cache(names) if str(row["name"]).startswith("n")}
    assert len(learnt) == 1


def test_learning_goes_on_while_the_agent_is_dead_and_after_the_name_process_was_killed(names: Gate) -> None:
    gate = names
    names_before = len(cache(gate))
    killed = gate.workers()["dns-0"]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: gate.workers()["dns-0"] != killed and gate.ready(), "the name process to be back")
    assert len(cache(gate)) == names_before
    gate.kill_agent()
    assert failed(gate, 1, 0, NAMES // 4) == []
    assert traffic.dns(gate.lab.frontend.namespace, "tracker.example.net").rcode == "REFUSED"
    answer = traffic.dns(gate.lab.frontend.namespace, "img.cdn.example.com", "AAAA")
    assert open_(gate, answer.addresses[0])
    gate.start()
    assert open_(gate, answer.addresses[0])
    assert failed(gate, 28, 0, NAMES // 4) == []


# Asks in turn, each question once, and tells which got no answer. A line on standard input ends it.
ASKER = """
import select, socket, struct, sys, time
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(4)
asker.connect((sys.argv[1], 53))
lost = number = 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.001)[0]:
    number += 1
    labels = (f"n{number % 200}", "many", "example", "com")
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\\0"
    asker.send(struct.pack("!6H", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1))
    try:
        while int.from_bytes(asker.recv(2048)[:2], "big") != number & 0xFFFF:
            pass
    except TimeoutError:
        lost += 1
print(number, lost)
"""


@contextmanager
def asking(gate: Gate) -> Iterator[list[int]]:
    """A client that asks all the while. Afterwards: how many questions, and how many without an answer."""
    argv = gate.lab.frontend.namespace.inside([sys.executable, "-I", "-S", "-c", ASKER, RESOLVER])
    counts: list[int] = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        try:
            yield counts
        finally:
            out, _ = client.communicate("\n", timeout=30)
        counts += map(int, out.split())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


@pytest.mark.parametrize("agent", ["alive", "dead"])
def test_a_name_process_outlives_its_guardian_and_gets_another(names: Gate, agent: str) -> None:
    before = names.workers()["dns-0"]
    known = lasting(names)
    if agent == "dead":
        names.kill_agent()
    with asking(names) as counts:
        os.kill(parent(before), signal.SIGKILL)
        assert failed(names, 1, 0, 20) == []
        wait_until(lambda: not Path(f"/proc/{before}").exists(), "the successor to have taken over")
        assert failed(names, 1, 20, 40) == []
    asked, lost = counts
    assert (lost, asked > 10) == (0, True)
    if agent == "dead":
        names.start()
    wait_until(names.ready, "the successor to be adopted")
    # It has a guardian: killed, it is back.
    after = names.workers()["dns-0"]
    assert after != before
    guardian = parent(after)
    os.kill(after, signal.SIGKILL)
    wait_until(lambda: names.ready() and names.workers()["dns-0"] not in (0, after), "the name process to be back")
    assert parent(names.workers()["dns-0"]) == guardian
    assert known <= {row["name"] for row in cache(names)}


def test_names_are_answered_and_learnt_while_the_agent_is_wedged(names: Gate) -> None:
    frontend = names.lab.frontend.namespace
    agent, worker = names.status()["pid"], names.workers()["dns-0"]
    os.kill(agent, signal.SIGSTOP)
    try:
        with asking(names) as counts:
            # Records that nobody takes are lost, and nothing waits for them.
            for _ in range(100):
                assert traffic.dns(frontend, "tracker.example.net").rcode == "REFUSED"
            assert failed(names, 28, 0, NAMES) == []
            os.kill(worker, signal.SIGKILL)
            assert failed(names, 1, 0, NAMES // 4) == []
    finally:
        os.kill(agent, signal.SIGCONT)
    asked, lost = counts
    assert lost <= 1 < asked
    wait_until(names.ready, "the agent to go on")


def test_a_killed_name_process_is_back_at_once_even_without_an_agent(names: Gate) -> None:
    killed = names.workers()["dns-0"]
    guardian = parent(killed)
    children = Path(f"/proc/{guardian}/task/{guardian}/children")
    names.kill_agent()
    with asking(names) as counts:
        for _ in range(3):
            wait_until(lambda: len(children.read_text().split()) == 1, "a worker")
            os.kill(int(children.read_text()), signal.SIGKILL)
            assert failed(names, 1, 0, 20) == []
    # What was asked while there was nobody waited in the listeners; what was under way is the client's to ask again.
    asked, lost = counts
    assert lost <= 3 < asked
    names.start()
    assert names.workers()["dns-0"] != killed


def test_a_successor_takes_over_without_losing_a_query(names: Gate) -> None:
    before = names.workers()["dns-0"]
    known = lasting(names)
    with asking(names) as counts:
        successor = names.lab.start(
            names.lab.node, [program("l7d"), "--config", str(names.config), "dns", "--replace"], "successor"
        )
        wait_until(lambda: names.ready() and names.workers()["dns-0"] not in (0, before), "the successor to be adopted")
        successor.require()
        assert failed(names, 1, 0, 20) == []
    asked, lost = counts
    assert (lost, asked > 10) == (0, True)
    assert known <= {row["name"] for row in cache(names)}
    assert not Path(f"/proc/{before}").exists()


def test_agents_of_other_versions_renew_the_name_process_without_losing_a_query(names: Gate, tmp_path: Path) -> None:
    metadata = tmp_path / "l7gate-99.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: l7gate\nVersion: 99.0\n")
    newer = ["env", f"PYTHONPATH={tmp_path}", program("l7d"), "--config", str(names.config), "agent"]
    known = lasting(names)

    def renewed(old: int) -> int:
        wait_until(lambda: names.ready() and names.workers()["dns-0"] not in (0, old), "a successor", 30.0)
        wait_until(lambda: not Path(f"/proc/{old}").exists(), "the one before to end")
        assert failed(names, 1, 0, 20) == []
        return names.workers()["dns-0"]

    first = names.workers()["dns-0"]
    with asking(names) as counts:
        names.kill_agent()
        names.agent = names.lab.start(names.lab.node, newer, "l7d")
        second = renewed(first)
        names.kill_agent()
        names.start()
        renewed(second)
    asked, lost = counts
    assert (lost, asked > 10) == (0, True)
    assert known <= {row["name"] for row in cache(names)}


def test_an_alias_opens_the_address_at_the_end_of_its_chain(names: Gate) -> None:
    frontend = names.lab.frontend.namespace
    assert not open_(names, "198.51.100.2")
    # The address belongs to a name that no rule opens: only the alias that was asked for does.
    assert traffic.dns(frontend, "edge.cdn.example.net").addresses == ("198.51.100.2",)
    assert not open_(names, "198.51.100.2")
    assert traffic.dns(frontend, "www.cdn.example.com").addresses == ("198.51.100.2",)
    assert open_(names, "198.51.100.2")
    assert not open_(names, "2001:db8:100::2")
    assert traffic.dns(frontend, "www.cdn.example.com", "AAAA").addresses == ("2001:db8:100::2",)
    assert open_(names, "2001:db8:100::2")


@pytest.mark.parametrize(("server", "tcp"), [("192.0.2.10", False), ("2001:db8::10", False), ("192.0.2.10", True)])
def test_each_way_to_ask_teaches(names: Gate, server: str, tcp: bool) -> None:
    frontend = names.lab.frontend.namespace
    for qtype, address in (("A", "198.51.100.1"), ("AAAA", "2001:db8:100::1")):
        assert traffic.dns(frontend, "api.example.com", qtype, server=server, tcp=tcp).addresses == (address,)
        assert open_(names, address)


def test_names_differ_in_case_only_for_people(names: Gate) -> None:
    frontend = names.lab.frontend.namespace
    assert traffic.dns(frontend, "IMG.cDn.eXample.COM").addresses == ("198.51.100.4",)
    assert open_(names, "198.51.100.4")
    assert traffic.dns(frontend, "a.b.cdn.example.com").rcode == "REFUSED"
    assert traffic.dns(frontend, "cdn.example.com").rcode == "REFUSED"


def test_people_can_see_why_a_name_is_open_and_what_no_name_explains(names: Gate) -> None:
    frontend = names.lab.frontend.namespace
    assert traffic.dns(frontend, "api.example.com").addresses == ("198.51.100.1",)
    assert open_(names, "198.51.100.1")
    why = names.must("fqdn", "explain", "API.example.com", "-o", "json").json
    matching = {(view["pattern"], view["in"]) for view in why["patterns"] if view["matches"]}
    assert matching == {("api.example.com", "rules.dns"), ("api.example.com", "toFQDNs")}
    assert any(not view["matches"] and view["pattern"] == "*.cdn.example.com" for view in why["patterns"])
    assert {(row["address"], *row["open_for"], *row["asked_by"]) for row in why["addresses"]} >= {
        ("198.51.100.1", "frontend", "frontend")
    }
    listed = names.must("fqdn", "names", "-o", "json").json
    assert "198.51.100.1" in next(row for row in listed if row["selector"] == "api.example.com")["addresses"]
    assert names.must("fqdn", "status", "-o", "json").json["learn_p99_ms"] > 0
    # A workload that no policy selects reaches an address without ever asking for a name.
    assert traffic.connect(names.lab.batch.namespace, UNNAMED, 80).open
    rows = names.must("fqdn", "audit", "-o", "json").json
    assert ("batch", UNNAMED, 80) in {(row["endpoint"], row["address"], row["port"]) for row in rows}
    assert not any(row["address"] == "198.51.100.1" or row["port"] == 53 for row in rows)


def test_a_name_can_be_forgotten_and_the_list_be_fed_back(names: Gate, tmp_path: Path) -> None:
    frontend = names.lab.frontend.namespace
    assert traffic.dns(frontend, "img.cdn.example.com").addresses == ("198.51.100.4",)
    assert open_(names, "198.51.100.4")
    kept = names.must("fqdn", "cache", "list", "-p", "img.cdn.*", "-o", "json").out
    assert names.must("fqdn", "cache", "clean", "-f", "-p", "img.cdn.example.com").out == "1 name forgotten\n"
    assert not open_(names, "198.51.100.4")
    file = names.lab.folder / "precache.json"
    file.write_text(kept)
    config = json.loads(names.config.read_text())
    names.config.write_text(json.dumps(config | {"dns": {"pre_cache": str(file)}}))
    # A killed process comes back as it was; one that was told to end is started anew, with the file's settings.
    before = names.workers()["dns-0"]
    os.kill(before, signal.SIGTERM)
    wait_until(lambda: names.workers()["dns-0"] != before and names.ready(), "the name process to be back")
    assert open_(names, "198.51.100.4")
    assert {row["source"] for row in names.must("fqdn", "cache", "list", "-p", "img.*", "-o", "json").json} == {
        "operator"
    }
    names.config.write_text(json.dumps(config))


def test_the_policy_against_encrypted_dns_refuses_what_the_proxy_cannot_see(names: Gate) -> None:
    batch = names.lab.batch.namespace
    assert traffic.connect(batch, UNNAMED, 853, timeout=1.0).error != "timed out"
    source = examples() / "optional" / "no-encrypted-dns.yaml"
    names.write("optional.yaml", source.read_text())
    names.must("rules", "reload")
    try:
        assert not traffic.connect(batch, UNNAMED, 853, timeout=0.5).open
        assert traffic.connect(batch, UNNAMED, 80).open
        denied = names.wait_audit(lambda record: record["destination"]["port"] == 853, "the denied flow")
        assert denied["rule"].startswith("no-encrypted-dns ")
    finally:
        names.restore()
        names.must("rules", "reload")
