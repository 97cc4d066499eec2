# SPDX-License-Identifier: Apache-2.0
"""What the DNS proxy costs: beside dnsmasq, unbound and dnsdist forwarding the same queries to the same server.

Everything is real: l7d on a lab's node with its datapath, dnsperf in a workload, and a name server that rotates its
addresses (`rotating.py`). The forwarders stand in an equal lab without l7d, are asked by address, and cache nothing
(`dnspeers.py`). Rounds are interleaved, throughput is their median. Only the hour of `memory` is simulated
(`dnsmemory.py`).

Prints a table, writes bench/results/dns.{json,svg}; the last line is one flat JSON object. `--parts` runs some of:
throughput, latency, learn, restart, pairs, memory.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dnspeers
from bars import Group, bars
from machine import machine, rss_mb

from l7lab import Lab, traffic
from l7lab.gate import Gate
from l7lab.namespace import Namespace
from l7lab.process import wait_until

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PARTS = ("throughput", "latency", "learn", "restart", "pairs", "memory")
SERVER = "192.0.2.12"
NODE = "192.0.2.1"
NAMES = 1000
CLIENTS, OUTSTANDING = 10, 100
STEADY = 1000
"""Queries per second where latency is measured."""
PAIRS = 100_000
CACHED = 20_000
"""Names that the process knows when it is killed."""

POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: frontend}}}}
  egress:
  - toCIDR: [{SERVER}/32]
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules: {{dns: [{{matchPattern: "*.bench.example.com"}}]}}
  - toFQDNs: [{{matchPattern: "*.bench.example.com"}}]
    toPorts: [{{ports: [{{port: "80", protocol: TCP}}]}}]
"""

# Asks for a name and connects to its address at once. A SYN that is dropped comes again after a second: too late.
PAIRS_CLIENT = """
import socket, struct, sys
server, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(5)
asker.connect((server, 53))
refused = unanswered = 0
linger = struct.pack("ii", 1, 0)
for number in range(first, last):
    label = b"p%d" % number
    name = bytes([len(label)]) + label + b"\\5bench\\7example\\3com\\0"
    asker.send(struct.pack("!6H", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + name + b"\\0\\x1c\\0\\1")
    try:
        while True:
            answer = asker.recv(2048)
            if int.from_bytes(answer[:2], "big") == number & 0xFFFF:
                break
        address = socket.inet_ntop(socket.AF_INET6, answer[-16:])
    except TimeoutError:
        unanswered += 1
        continue
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.7)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        try:
            sock.connect((address, 80))
        except OSError:
            refused += 1
print(refused, unanswered)
"""


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def prepare(lab: Lab) -> None:
    """The rotating name server, and a web server behind every address it gives."""
    outside = lab.outside.namespace
    outside.ip([f"addr add {SERVER}/24 dev ext0", "route add local 2001:db8:100:1::/80 dev lo"])
    lab.node.namespace.ip(["route add 2001:db8:100:1::/80 via 2001:db8::10"])
    lab.start(lab.outside, [sys.executable, str(HERE / "rotating.py"), SERVER], "rotating")
    for tcp in (False, True):
        wait_until(
            lambda tcp=tcp: traffic.dns(outside, "n0.bench.example.com", server=SERVER, tcp=tcp).rcode == "NOERROR",
            "the name server",
        )


@contextmanager
def gate(**dns: object) -> Iterator[Gate]:
    """l7d with the policy in force and no limit per workload; more settings of its DNS process."""
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "policy.yaml").write_text(POLICY)
        running = Gate(lab, Path(folder), {"dns": {"queries_per_second": 0, **dns}})
        running.start()
        running.add_all()
        prepare(lab)
        yield running


@contextmanager
def peers() -> Iterator[tuple[Lab, list[dnspeers.Peer]]]:
    """The forwarders, on a node of their own."""
    with Lab() as lab:
        prepare(lab)
        yield lab, dnspeers.start(lab, NODE, SERVER)


class Load:
    """dnsperf in one workload against one address."""

    def __init__(self, namespace: Namespace, folder: Path, address: str, port: int) -> None:
        self.namespace = namespace
        self.address = address
        self.port = port
        self.queries = {}
        for qtype in ("A", "AAAA"):
            path = folder / f"queries-{qtype}"
            path.write_text("".join(f"n{number}.bench.example.com {qtype}\n" for number in range(NAMES)))
            self.queries[qtype] = str(path)

    def run(self, mode: str, seconds: float, *more: str, qtype: str = "A") -> str:
        """What dnsperf prints."""
        argv = ["dnsperf", "-s", self.address, "-p", str(self.port), "-m", mode, "-d", self.queries[qtype],
                "-c", str(CLIENTS), "-q", str(OUTSTANDING), "-l", str(seconds), *more]  # fmt: skip
        done = self.namespace.run(argv, timeout=seconds + 30)
        if done.returncode != 0:
            raise SystemExit(f"bench: dnsperf: {done.stderr.strip()}")
        return done.stdout

    def rate(self, mode: str, seconds: float) -> float:
        """Answered queries per second, as many as there can be."""
        out = self.run(mode, seconds)
        return float(_field(out, "Queries per second"))

    def latencies(self, mode: str, seconds: float) -> list[float]:
        """Milliseconds of each query at a steady rate, sorted."""
        out = self.run(mode, seconds, "-v", "-Q", str(STEADY))
        return sorted(float(found) * 1000 for found in re.findall(r"^> \w+ \S+ \w+ ([\d.]+)$", out, re.MULTILINE))


def _field(text: str, name: str) -> str:
    found = re.search(rf"{name}:\s+([\d.]+)", text)
    if found is None:
        raise SystemExit(f"bench: dnsperf did not print {name!r}")
    return found[1]


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def compared(parts: Sequence[str], rounds: int, seconds: float) -> dict[str, float]:
    """Throughput and latency of l7gate and its peers."""
    found: dict[str, float] = {}
    with gate() as running, peers() as (lab, others):
        folder = running.lab.folder
        loads = {"l7gate": Load(running.lab.frontend.namespace, folder, SERVER, 53)}
        loads |= {peer.name: Load(lab.frontend.namespace, folder, peer.address, peer.port) for peer in others}
        if "throughput" in parts:
            rates: dict[tuple[str, str], list[float]] = {}
            for number in range(rounds):
                for mode in ("udp", "tcp"):
                    for name, load in loads.items():
                        rates.setdefault((name, mode), []).append(load.rate(mode, seconds))
                        say(f"round {number + 1}: {name} {mode} {rates[name, mode][-1]:,.0f}/s")
            found |= {f"qps_{mode}_{name}": round(statistics.median(all_)) for (name, mode), all_ in rates.items()}
            found["ratio_dnsmasq"] = round(found["qps_udp_l7gate"] / found["qps_udp_dnsmasq"], 2)
            found["ratio_dnsmasq_nftset"] = round(found["qps_udp_l7gate"] / found["qps_udp_dnsmasq_nftset"], 2)
            found["ratio_tcp_dnsmasq"] = round(found["qps_tcp_l7gate"] / found["qps_tcp_dnsmasq"], 2)
            found["rss_live_mb"] = round(rss_mb(running.workers()["dns-0"]), 1)
        if "latency" in parts:
            for mode in ("udp", "tcp"):
                for name, load in loads.items():
                    times = load.latencies(mode, seconds)
                    for share, label in ((0.5, "p50"), (0.99, "p99"), (0.999, "p999")):
                        found[f"{label}_ms_{mode}_{name}"] = round(percentile(times, share), 3)
                    say(f"{name} {mode} at {STEADY}/s: p99 {found[f'p99_ms_{mode}_{name}']} ms")
    return found


def learn(running: Gate) -> dict[str, float]:
    """How long the kernel's tables take, with an address that was never seen before in every answer."""
    before = running.api("GET", "/v1/fqdn/status")[1]["learn_seconds"]
    Load(running.lab.frontend.namespace, running.lab.folder, SERVER, 53).run("udp", 10, "-Q", str(STEADY), qtype="AAAA")
    after = running.api("GET", "/v1/fqdn/status")[1]["learn_seconds"]
    rows = [(bound, new - old) for (bound, new), (_, old) in zip(after, before, strict=True)]
    total = rows[-1][1]
    say(f"learnt {total} addresses")

    def bound(share: float) -> float:
        return next(limit for limit, count in rows if count >= share * total) * 1000

    return {"learnt": total, "learn_p50_ms": bound(0.5), "learn_p99_ms": bound(0.99), "learn_p999_ms": bound(0.999)}


def restart() -> dict[str, float]:
    """A DNS process with a full cache under load, killed and handed over: what is lost without asking again, and the
    longest that a query waited."""
    with gate(min_ttl=3600) as running:
        load = Load(running.lab.frontend.namespace, running.lab.folder, SERVER, 53)
        many = running.lab.folder / "many"
        many.write_text("".join(f"r{number}.bench.example.com AAAA\n" for number in range(CACHED)))
        load.queries["many"] = str(many)
        load.run("udp", 60, "-n", "1", "-Q", "4000", qtype="many")
        some = running.lab.folder / "some"  # whose addresses, which rotate, are few enough to be known soon
        some.write_text("".join(f"n{number}.bench.example.com A\n" for number in range(100)))
        load.queries["some"] = str(some)
        cached = running.api("GET", "/v1/fqdn/status")[1]["names"]
        found: dict[str, float] = {"restart_names": cached}
        program = [str(Path(sys.executable).with_name("l7d")), "--config", str(running.config), "dns", "--replace"]
        for name, act in (
            ("restart", lambda: os.kill(running.workers()["dns-0"], signal.SIGKILL)),
            ("handover", lambda: running.lab.start(running.lab.node, program, "successor")),
        ):
            output: list[str] = []
            asking = threading.Thread(
                target=lambda out=output: out.append(load.run("udp", 8, "-Q", str(STEADY), qtype="some"))
            )
            asking.start()
            time.sleep(3)
            act()
            asking.join()
            longest = re.search(r"Average Latency \(s\):.*max ([\d.]+)\)", output[0])
            assert longest is not None
            found[f"lost_on_{name}"] = float(_field(output[0], "Queries lost"))
            found[f"{name}_ms"] = round(float(longest[1]) * 1000, 1)
        say(f"{found}; after it {running.api('GET', '/v1/fqdn/status')[1]['names']} names")
    return found


def pairs(running: Gate, count: int) -> dict[str, float]:
    """Each query is followed by a connection to the address it gave."""
    began = time.monotonic()
    clients = [
        subprocess.Popen(
            running.lab.frontend.namespace.inside(
                [sys.executable, "-I", "-S", "-c", PAIRS_CLIENT, SERVER, str(half), str(half + count // 2)]
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for half in (0, count // 2)
    ]
    results = [tuple(map(int, client.communicate()[0].split())) for client in clients]
    say(f"{count} pairs in {time.monotonic() - began:.0f} s: {results}")
    return {
        "pairs": count,
        "pairs_refused": sum(refused for refused, _ in results),
        "pairs_unanswered": sum(unanswered for _, unanswered in results),
    }


def chart(found: dict[str, float]) -> str:
    """Throughput and latency, beside each other."""
    names = ["l7gate", *dnspeers.PORTS]
    groups = [
        Group(title, {name: found[f"{key}_{name}"] for name in names if f"{key}_{name}" in found}, unit)
        for key, title, unit in (
            ("qps_udp", "UDP, queries per second", "/s"),
            ("qps_tcp", "TCP, queries per second", "/s"),
        )
    ]
    return bars("DNS: l7gate beside forwarders, two cores shared with client and server", names, groups)


def main() -> None:
    """Runs the parts, and keeps what earlier runs found for the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    found: dict[str, float] = {}
    if "memory" in options.parts:
        # In a process of its own: its memory is the learner's.
        done = subprocess.run([sys.executable, HERE / "dnsmemory.py"], check=True, stdout=subprocess.PIPE)
        found |= json.loads(done.stdout)
    if {"throughput", "latency"} & set(options.parts):
        found |= compared(options.parts, options.rounds, options.seconds)
    if "restart" in options.parts:
        found |= restart()
    if {"learn", "pairs"} & set(options.parts):
        with gate() as running:
            if "learn" in options.parts:
                found |= learn(running)
            if "pairs" in options.parts:
                found |= pairs(running, options.pairs)
    for name, value in sorted(found.items()):
        say(f"{name:28} {value:,g}")
    path = RESULTS / "dns.json"
    kept = json.loads(path.read_text())["results"] if path.exists() else {}
    path.write_text(json.dumps({"machine": machine(), "results": kept | found}, indent=2) + "\n")
    (RESULTS / "dns.svg").write_text(chart(kept | found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
